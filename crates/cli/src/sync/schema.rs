//! Before the first session: the hub learns of the tables here, or a new file gets those of the room.

use std::path::Path;

use anyhow::{Context, anyhow, bail, ensure};
use hyper::{Method, StatusCode};
use opor_hub::RoomSchema;
use opor_store::Store;
use serde::Deserialize;
use serde_json::{Value as Json, json};

use super::remote::Remote;
use crate::database::{self, Kind};
use crate::trust::NotTrusted;
use crate::web::{self, Answer};

/// What came of it.
#[derive(Debug, Default)]
pub(crate) struct Agreed {
    /// Tables that the file got from the room.
    pub(crate) created: Vec<String>,
    /// Tables of the room that do not replicate in the file.
    pub(crate) missing_here: Vec<String>,
    /// What the hub says where a table of the file has another definition in the room.
    pub(crate) differs: Option<String>,
    /// The last commit of the room then, where there was somebody to ask.
    pub(crate) db_version: Option<u64>,
}

/// Why there was no agreement.
#[derive(Debug)]
pub(crate) enum Failed {
    /// Nobody answered, or not now; later may help.
    Unreachable(anyhow::Error),
    /// It would end the same way again.
    Refused(anyhow::Error),
}

impl Failed {
    pub(crate) fn into_error(self) -> anyhow::Error {
        match self {
            Self::Unreachable(error) | Self::Refused(error) => error,
        }
    }
}

#[derive(Debug, Deserialize)]
struct RoomAnswer {
    #[serde(default)]
    schema: Vec<String>,
    tables: Vec<String>,
    db_version: u64,
}

/// Agrees with the hub on the tables of the room.
///
/// A file with replicated tables proposes them; what the room lacks it gets, and the room's own tables are left as they
/// are. A file without takes those of the room: each statement is checked in a database in memory that allows nothing but
/// tables and indexes, as the hub does with ours.
pub(crate) async fn agree(file: &Path, remote: &Remote, token: Option<&str>) -> Result<Agreed, Failed> {
    let refused = Failed::Refused;
    let ours = schema_of(file).map_err(refused)?;
    let Some(url) = &remote.schema else {
        return match ours {
            Some(_) => Ok(Agreed::default()),
            None => Err(refused(nothing_to_sync(file))),
        };
    };
    let (method, body) = match &ours {
        Some(ours) => {
            let schema: Vec<&str> = ours.statements().collect();
            (Method::PUT, Some(json!({ "schema": schema, "tables": ours.tables() })))
        }
        None => (Method::GET, None),
    };
    let mut answer = ask(method, remote, url, token, body.as_ref()).await?;
    let mut differs = None;
    if answer.kind() == "schema_conflict" {
        differs = Some(answer.reason());
        answer = ask(Method::GET, remote, url, token, None).await?;
    }
    if !answer.status.is_success() {
        return Err(judge(file, remote, &answer, ours.is_some()));
    }
    let room: RoomAnswer = serde_json::from_value(answer.body)
        .map_err(|error| refused(anyhow!("{} gave no schema: {error}", remote.shown)))?;
    let Some(ours) = ours else { return take(file, room).await.map_err(refused) };
    let missing_here = room.tables.into_iter().filter(|table| !ours.tables().contains(table)).collect();
    Ok(Agreed { missing_here, differs, db_version: Some(room.db_version), ..Agreed::default() })
}

async fn ask(
    method: Method,
    remote: &Remote,
    url: &hyper::Uri,
    token: Option<&str>,
    body: Option<&Json>,
) -> Result<Answer, Failed> {
    let answer = web::send(method, url, remote.trust.as_ref(), token, body).await;
    answer.map_err(|error| {
        let is_final = error.is::<NotTrusted>();
        let error = error.context(format!("cannot reach {}", remote.shown));
        if is_final { Failed::Refused(error) } else { Failed::Unreachable(error) }
    })
}

fn judge(file: &Path, remote: &Remote, answer: &Answer, proposed: bool) -> Failed {
    let said = anyhow!("{} answers: {}", remote.shown, answer.reason());
    match answer.status {
        StatusCode::NOT_FOUND if !proposed && answer.kind() == "unknown_room" => Failed::Refused(anyhow!(
            "neither {} nor the room {} has tables yet; `opor init` makes tables replicate",
            file.display(),
            remote.room,
        )),
        StatusCode::TOO_MANY_REQUESTS
        | StatusCode::REQUEST_TIMEOUT
        | StatusCode::BAD_GATEWAY
        | StatusCode::SERVICE_UNAVAILABLE
        | StatusCode::GATEWAY_TIMEOUT => Failed::Unreachable(said),
        _ => Failed::Refused(said),
    }
}

/// The schema of a file; none where nothing in it replicates, or where it is not there.
fn schema_of(file: &Path) -> anyhow::Result<Option<RoomSchema>> {
    match database::kind(file)? {
        Kind::New => return Ok(None),
        Kind::Plain => {
            let tables = database::user_tables(&database::read_only(file)?)?;
            ensure!(tables.is_empty(), nothing_to_sync(file));
            return Ok(None);
        }
        Kind::Replicated => {}
    }
    let store = database::open(file)?;
    let schema = RoomSchema::of(&store)?;
    Ok((!schema.tables().is_empty()).then_some(schema))
}

fn nothing_to_sync(file: &Path) -> anyhow::Error {
    anyhow!("{} has no replicated tables; see `opor init`", file.display())
}

/// Makes the tables of the room in a file that has none.
async fn take(file: &Path, room: RoomAnswer) -> anyhow::Result<Agreed> {
    if room.tables.is_empty() {
        bail!("neither {} nor the room has tables yet; `opor init` makes tables replicate", file.display());
    }
    let path = file.to_owned();
    let created = tokio::task::spawn_blocking(move || {
        let schema = RoomSchema::parse(&room.schema, room.tables)
            .context("the room's schema is none that can be taken")?;
        let mut store: Store = database::open(&path)?;
        // Tables that are there may hold what is nobody else's business.
        ensure!(database::user_tables(&store)?.is_empty(), nothing_to_sync(&path));
        schema.create_in(&mut store).context("the tables of the room cannot be made here")?;
        Ok::<_, anyhow::Error>((schema.tables().to_vec(), room.db_version))
    });
    let (created, db_version) = created.await.context("work on the database failed")??;
    Ok(Agreed { created, db_version: Some(db_version), ..Agreed::default() })
}
