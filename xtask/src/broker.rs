//! The nats-server that tests of the NATS crates start: found in `PATH`, unpacked under `target`, or installed.
//!
//! A package of the system's archive is enough: `apt-get download` needs no rights, and its files are unpacked into
//! `target/nats-server`, where nothing else finds them.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result};

use crate::steps::{Ended, Steps};
use crate::workspace::Workspace;

/// The packages whose tests start one.
pub(crate) const NEED_IT: [&str; 2] = ["opor-transport-nats", "opor-sync-nats"];

/// The tests of other packages that start one are in modules of this name.
pub(crate) const MODULE: &str = "with_nats_server::";

/// Names the program to tests; see `tests/nats-server`.
pub(crate) const VARIABLE: &str = "OPOR_NATS_SERVER";

/// What to do where there is none.
const HOW: &str = "Install nats-server 2.9 or newer, or name it in OPOR_NATS_SERVER";

/// The server that tests can use.
#[derive(Debug, Default)]
pub(crate) struct Broker(Option<PathBuf>);

impl Broker {
    /// Where the server is, if there is one.
    pub(crate) fn program(&self) -> Option<&Path> {
        self.0.as_deref()
    }
}

/// Looks for a server, and gets one where there is none.
pub(crate) fn step(workspace: &Workspace, steps: &mut Steps) -> Result<Broker> {
    let mut broker = Broker::default();
    steps.step("nats-server", || {
        let skipped = |why: &str| {
            Ok(Ended::Skipped(format!(
                "{why}; the tests of {} and those in {MODULE} do not run. {HOW}",
                NEED_IT.join(" and ")
            )))
        };
        if find(workspace).is_none()
            && let Err(why) = unpack(workspace)?
        {
            return skipped(&why);
        }
        let Some((program, told)) = find(workspace) else {
            return skipped("the nats-server that was downloaded does not run");
        };
        broker = Broker(Some(program));
        Ok(Ended::Passed(told))
    })?;
    Ok(broker)
}

fn find(workspace: &Workspace) -> Option<(PathBuf, String)> {
    let named = std::env::var_os(VARIABLE).map(PathBuf::from);
    let places = named.into_iter().chain([PathBuf::from("nats-server"), unpacked(workspace)]);
    places.into_iter().find_map(|program| version_of(&program).map(|version| (program, version)))
}

/// Where the program of an unpacked package is.
fn unpacked(workspace: &Workspace) -> PathBuf {
    workspace.target().join("nats-server/usr/sbin/nats-server")
}

/// What a server says of itself; nothing where it does not run.
fn version_of(program: &Path) -> Option<String> {
    let output = Command::new(program).arg("--version").stderr(Stdio::null()).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// Gets the package of the system's archive and unpacks it; says why where that does not work.
fn unpack(workspace: &Workspace) -> Result<Result<(), String>> {
    let place = workspace.target().join("nats-server");
    std::fs::create_dir_all(&place).with_context(|| format!("could not create {}", place.display()))?;
    let apt = |args: &[&str]| {
        let mut apt = Command::new("apt-get");
        apt.args(args).current_dir(&place).stdin(Stdio::null());
        apt.status().is_ok_and(|status| status.success())
    };
    // The lists of a fresh machine may be empty or old; renewing them takes rights that not everybody has.
    let download = ["download", "nats-server"];
    let is_there = apt(&download) || (apt(&["update"]) && apt(&download));
    if !is_there {
        return Ok(Err("nats-server was not found, and could not be downloaded".to_owned()));
    }
    let entries = std::fs::read_dir(&place).with_context(|| format!("could not list {}", place.display()))?;
    let packages = entries.filter_map(|entry| entry.ok().map(|entry| entry.path()));
    let Some(package) = packages.filter(|path| path.extension().is_some_and(|end| end == "deb")).max() else {
        return Ok(Err("no package of nats-server was downloaded".to_owned()));
    };
    let mut dpkg = Command::new("dpkg-deb");
    let done = dpkg.arg("-x").arg(&package).arg(&place).status().is_ok_and(|status| status.success());
    Ok(if done { Ok(()) } else { Err(format!("{} could not be unpacked", package.display())) })
}
