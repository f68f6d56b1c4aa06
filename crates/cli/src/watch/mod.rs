//! `opor watch`: the result of a query, for as long as it runs.

mod author;
mod caret;
mod json;
mod lines;
mod list;
mod outlet;
mod parameter;
mod screen;
mod values;

use std::collections::BTreeSet;
use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use clap::Args;
use futures_util::StreamExt;
use opor_core::DbVersion;
use opor_live::{Diff, Live, LiveError, LiveOptions, Query, Subscription};
use opor_store::{OpenOptions, StoreHandle};
use tokio::time::Instant;

use self::author::Author;
use self::json::JsonView;
use self::lines::LinesView;
use self::list::Change;
use self::parameter::Parameter;
use self::screen::ScreenView;
use self::values::Values;
use crate::database::{self, Kind};
use crate::signals::Signals;

/// The shortest time between two pictures on a terminal: nobody sees more, and what happens meanwhile is one change.
const PICTURE_EVERY: Duration = Duration::from_millis(40);

/// Keep the result of a query on the screen.
///
/// Whoever writes to the file, this program or another, `opor sync --watch` among them: the table is drawn anew when its
/// result changes, until ctrl-c. It only reads the file. Where the output is no terminal, the table comes once, and then each
/// change in lines.
#[derive(Debug, Args)]
pub(crate) struct Watch {
    /// The database. It must have been opened by opor before.
    file: PathBuf,
    /// One SELECT.
    sql: String,
    /// The next parameter of the query, or NAME=VALUE for one with a name: 3, 2.5, NULL, x'00ff', or a text; 'a text' in
    /// quotes is always one.
    #[arg(long = "param", value_name = "VALUE", allow_hyphen_values = true, value_parser = Parameter::parse)]
    parameters: Vec<Parameter>,
    /// Columns of the result that tell its rows apart: then a row can change, in place of one that goes and one that comes.
    #[arg(long, value_name = "COLUMN", value_delimiter = ',')]
    key: Vec<String>,
    /// Print one JSON object for each change.
    #[arg(long)]
    json: bool,
}

/// Where it is shown.
enum View<'a> {
    Json(JsonView<'a>),
    Lines(LinesView<'a>),
    Screen(ScreenView),
}

impl Watch {
    pub(crate) fn run(&self, out: &mut dyn Write) -> anyhow::Result<ExitCode> {
        if let Some(name) = parameter::given_twice(&self.parameters) {
            bail!("parameter {name} is given twice");
        }
        let store = open(&self.file)?;
        // The queries have a thread of their own.
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .context("cannot start the runtime")?;
        let mut view = self.view(out);
        let watched = runtime.block_on(self.watch(&store, &mut view));
        if let (View::Json(view), Err(error)) = (&mut view, &watched)
            && let Some(error) = error.downcast_ref::<LiveError>()
        {
            view.error(error)?;
        }
        drop(view);
        store.close();
        watched.map_err(|error| match error.downcast::<LiveError>() {
            Ok(error) => anyhow!(caret::pointed(&error, &self.sql)),
            Err(other) => other,
        })?;
        Ok(ExitCode::SUCCESS)
    }

    fn view<'a>(&self, out: &'a mut dyn Write) -> View<'a> {
        if self.json {
            View::Json(JsonView::new(out))
        } else if io::stdout().is_terminal() && std::env::var_os("TERM").is_none_or(|term| term != "dumb") {
            View::Screen(ScreenView::new())
        } else {
            View::Lines(LinesView::new(out))
        }
    }

    async fn watch(&self, store: &StoreHandle, view: &mut View<'_>) -> anyhow::Result<()> {
        let mut signals = Signals::new()?;
        let options = LiveOptions { tell_commits: true, ..LiveOptions::default() };
        let live = Live::start_with(store, options)?;
        let subscription = tokio::select! {
            subscription = self.query(&live).subscribe() => subscription?,
            () = signals.next() => return Ok(()),
        };
        let shown = tokio::select! {
            shown = self.show(store, &live, &subscription, view) => shown,
            () = signals.next() => Ok(()),
        };
        match shown {
            Ok(()) => Ok(view.end()?),
            Err(error) => Err(error),
        }
    }

    fn query(&self, live: &Live) -> Query<Values> {
        let query = live.query::<Values>(self.sql.as_str()).key(self.key.iter().cloned());
        self.parameters.iter().fold(query, |query, parameter| match &parameter.name {
            Some(name) => query.bind_named(name, parameter.value.clone()),
            None => query.bind(parameter.value.clone()),
        })
    }

    /// Shows every change, until nobody looks any more.
    async fn show(
        &self,
        store: &StoreHandle,
        live: &Live,
        subscription: &Subscription<Values>,
        view: &mut View<'_>,
    ) -> anyhow::Result<()> {
        let mut diffs = subscription.diffs();
        let mut resizes = outlet::Resizes::new()?;
        let mut tables = None;
        let mut last = None;
        loop {
            let item = tokio::select! {
                item = diffs.next() => item,
                () = resizes.next() => {
                    view.resized()?;
                    continue;
                }
                () = outlet::closed() => return Ok(()),
            };
            match item {
                None => bail!("the database was closed"),
                Some(Err(error)) => view.error(&error)?,
                Some(Ok(diff)) => {
                    if tables.is_none() || diff.origin.is_none() {
                        tables = Some(author::tables(live, &self.sql).await);
                    }
                    let author = author(store, &diff, last, tables.as_ref()).await?;
                    last = diff.commit;
                    view.change(Change { diff, author })?;
                }
            }
            view.rest().await;
        }
    }
}

/// Who is behind a change; nobody, for the first result.
async fn author(
    store: &StoreHandle,
    diff: &Diff<Values>,
    last: Option<DbVersion>,
    tables: Option<&Option<BTreeSet<String>>>,
) -> anyhow::Result<Option<Author>> {
    let (Some(_), Some(before), Some(commit)) = (diff.origin, last, diff.commit) else { return Ok(None) };
    let tables = tables.cloned().flatten();
    store.read(move |store| Author::find(store, before, commit, tables.as_ref())).await?.map(Some)
}

/// Opens a file that opor has been used on, to read only.
fn open(path: &Path) -> anyhow::Result<StoreHandle> {
    match database::kind(path)? {
        Kind::New => bail!("{} does not exist or is empty; `opor init` makes a database", path.display()),
        Kind::Plain => bail!(
            "{} has never been opened by opor, and watching only reads; `opor init` with a table prepares it",
            path.display()
        ),
        Kind::Replicated => {}
    }
    let options = OpenOptions::new().read_only(true);
    StoreHandle::open(path, &options, 1).with_context(|| format!("cannot open {}", path.display()))
}

impl View<'_> {
    fn change(&mut self, change: Change) -> io::Result<()> {
        match self {
            View::Json(view) => view.change(change),
            View::Lines(view) => view.change(change),
            View::Screen(view) => view.change(change),
        }
    }

    fn error(&mut self, error: &LiveError) -> io::Result<()> {
        match self {
            View::Json(view) => view.error(error),
            View::Lines(view) => view.error(error),
            View::Screen(view) => view.error(error),
        }
    }

    fn resized(&self) -> io::Result<()> {
        match self {
            View::Json(_) | View::Lines(_) => Ok(()),
            View::Screen(view) => view.draw(),
        }
    }

    fn end(&mut self) -> io::Result<()> {
        match self {
            View::Json(view) => view.end(),
            View::Lines(_) => Ok(()),
            View::Screen(view) => view.end(),
        }
    }

    /// Waits until another picture is worth drawing.
    async fn rest(&self) {
        if matches!(self, View::Screen(_)) {
            tokio::time::sleep_until(Instant::now() + PICTURE_EVERY).await;
        }
    }
}
