//! `cargo xtask layers`: which crate may depend on which.
//!
//! Purity is a crate here: that core has no SQLite and the protocol no runtime is checked on the dependency graph, not
//! promised in a comment. Development dependencies are exempt.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Result, bail};
use cargo_metadata::{DependencyKind, Metadata};

use crate::steps::{Ended, Steps};
use crate::workspace::Workspace;

/// One row of the layer table.
struct Layer {
    /// The package; a `*` at the end stands for any ending. The first row that fits counts.
    package: &'static str,
    may: May,
    /// External packages that must not be reached, directly or through others.
    without: &'static [&'static str],
}

/// Which packages of the workspace a layer may depend on.
enum May {
    Anything,
    Only(&'static [&'static str]),
}

const SQLITE: &str = "rusqlite";
const RUNTIME: &str = "tokio";
const SERVER: &str = "axum";

/// The layer table, inner layers first. Every package of the workspace has a row; a row may wait for its crate.
const LAYERS: &[Layer] = &[
    Layer { package: "opor-core", may: May::Only(&[]), without: &[SQLITE, RUNTIME, SERVER] },
    Layer { package: "opor-store", may: May::Only(&["opor-core"]), without: &[RUNTIME, SERVER] },
    Layer { package: "opor-live", may: May::Only(&["opor-core", "opor-store"]), without: &[RUNTIME, SERVER] },
    Layer { package: "opor-sync-proto", may: May::Only(&["opor-core"]), without: &[SQLITE, RUNTIME, SERVER] },
    Layer {
        package: "opor-transport-traits",
        may: May::Only(&["opor-core"]),
        without: &[SQLITE, RUNTIME, SERVER],
    },
    Layer {
        package: "opor-transport-kit",
        may: May::Only(&["opor-transport-traits"]),
        without: &[SQLITE, SERVER],
    },
    Layer {
        package: "opor-transport-*",
        may: May::Only(&["opor-transport-traits", "opor-transport-kit"]),
        without: &[SQLITE],
    },
    Layer {
        package: "opor-sync",
        may: May::Only(&["opor-core", "opor-store", "opor-sync-proto", "opor-transport-traits"]),
        without: &[SERVER],
    },
    // The room's log over a broker: it stores and publishes, and has no session; of the protocol it takes the record of
    // what came from where. The one crate beside the hub that knows a transport, because the log is that broker's.
    Layer {
        package: "opor-sync-nats",
        may: May::Only(&[
            "opor-core",
            "opor-store",
            "opor-sync-proto",
            "opor-transport-traits",
            "opor-transport-nats",
        ]),
        without: &[SERVER],
    },
    Layer {
        package: "opor-hub",
        may: May::Only(&[
            "opor-core",
            "opor-store",
            "opor-live",
            "opor-sync-proto",
            "opor-sync",
            "opor-transport-*",
        ]),
        without: &[],
    },
    Layer {
        package: "opor",
        may: May::Only(&[
            "opor-core",
            "opor-store",
            "opor-live",
            "opor-sync-proto",
            "opor-sync",
            "opor-sync-nats",
            "opor-transport-*",
        ]),
        without: &[SERVER],
    },
    Layer {
        package: "opor-extension",
        may: May::Only(&["opor", "opor-core", "opor-store"]),
        without: &[RUNTIME],
    },
    Layer { package: "opor-dioxus", may: May::Only(&["opor", "opor-core", "opor-live"]), without: &[SERVER] },
    Layer {
        package: "opor-cli",
        may: May::Only(&[
            "opor",
            "opor-core",
            "opor-store",
            "opor-live",
            "opor-sync",
            "opor-sync-nats",
            "opor-hub",
            "opor-transport-*",
        ]),
        without: &[],
    },
    Layer {
        package: "opor-testkit",
        may: May::Only(&["opor-core", "opor-store", "opor-sync-proto"]),
        without: &[RUNTIME, SERVER],
    },
    Layer { package: "opor-nats-server", may: May::Only(&[]), without: &[SQLITE, RUNTIME, SERVER] },
    Layer { package: "opor-tests", may: May::Anything, without: &[] },
    Layer { package: "opor-bench", may: May::Anything, without: &[] },
    Layer { package: "opor-sim", may: May::Only(&["opor-testkit"]), without: &[RUNTIME, SERVER] },
    Layer { package: "xtask", may: May::Only(&[]), without: &[SQLITE, RUNTIME, SERVER] },
];

/// Checks the table on this workspace.
pub(crate) fn step(workspace: &Workspace, steps: &mut Steps) -> Result<()> {
    steps.step("layers", || {
        let graph = Graph::of(&workspace.metadata);
        let faults = faults(LAYERS, &graph);
        if !faults.is_empty() {
            bail!("the layer table does not hold:\n  {}", faults.join("\n  "));
        }
        let crates = graph.0.values().filter(|package| package.internal).count();
        Ok(Ended::Passed(format!("{crates} packages keep to the table")))
    })
}

/// Packages by id, without development dependencies.
struct Graph(BTreeMap<String, Package>);

struct Package {
    name: String,
    /// Whether it is of this workspace.
    internal: bool,
    /// The ids it depends on.
    needs: Vec<String>,
}

impl Graph {
    fn of(metadata: &Metadata) -> Self {
        let resolve = metadata.resolve.as_ref().expect("cargo metadata resolves unless told not to");
        let packages = resolve.nodes.iter().map(|node| {
            let needs = node.deps.iter().filter(|dependency| {
                dependency.dep_kinds.iter().any(|kind| kind.kind != DependencyKind::Development)
            });
            let package = Package {
                name: metadata[&node.id].name.to_string(),
                internal: metadata.workspace_members.contains(&node.id),
                needs: needs.map(|dependency| dependency.pkg.repr.clone()).collect(),
            };
            (node.id.repr.clone(), package)
        });
        Self(packages.collect())
    }

    /// The shortest way from a package to an external one of this name, ends included.
    fn way_to(&self, from: &str, name: &str) -> Option<Vec<&str>> {
        let mut ways = vec![vec![from]];
        let mut seen = BTreeSet::from([from]);
        while !ways.is_empty() {
            let mut longer = Vec::new();
            for way in ways {
                let last = &self.0[*way.last().expect("a way has at least its start")];
                for need in last.needs.iter().filter(|need| seen.insert(need)) {
                    let mut way = way.clone();
                    way.push(need);
                    if self.0[need].name == name {
                        return Some(way.iter().map(|id| &*self.0[*id].name).collect());
                    }
                    longer.push(way);
                }
            }
            ways = longer;
        }
        None
    }
}

/// What is wrong, one line for each edge that should not be there.
fn faults(table: &[Layer], graph: &Graph) -> Vec<String> {
    let mut faults = Vec::new();
    for (id, package) in graph.0.iter().filter(|(_, package)| package.internal) {
        let name = &package.name;
        let Some(layer) = table.iter().find(|layer| fits(layer.package, name)) else {
            faults.push(format!("{name} has no row in the layer table (xtask/src/layers.rs)"));
            continue;
        };
        if let May::Only(allowed) = layer.may {
            let needs = package.needs.iter().map(|need| &graph.0[need]).filter(|need| need.internal);
            let strangers = needs.filter(|need| !allowed.iter().any(|pattern| fits(pattern, &need.name)));
            faults
                .extend(strangers.map(|need| format!("{name} -> {}: not among what it may use", need.name)));
        }
        for banned in layer.without {
            if let Some(way) = graph.way_to(id, banned) {
                faults.push(format!("{}: {name} must not reach {banned}", way.join(" -> ")));
            }
        }
    }
    faults
}

fn fits(pattern: &str, name: &str) -> bool {
    pattern.strip_suffix('*').map_or(pattern == name, |start| name.starts_with(start))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A workspace of the packages named `opor*`, given as `(package, what it needs)`.
    fn graph(edges: &[(&str, &[&str])]) -> Graph {
        let package = |name: &str, needs: &[&str]| Package {
            name: name.to_owned(),
            internal: name.starts_with("opor"),
            needs: needs.iter().map(|need| (*need).to_owned()).collect(),
        };
        let listed = edges.iter().map(|(name, needs)| ((*name).to_owned(), package(name, needs)));
        let mut packages: BTreeMap<_, _> = listed.collect();
        for need in edges.iter().flat_map(|(_, needs)| *needs) {
            packages.entry((*need).to_owned()).or_insert_with(|| package(need, &[]));
        }
        Graph(packages)
    }

    #[track_caller]
    fn check(edges: &[(&str, &[&str])], expected: &[&str]) {
        assert_eq!(faults(LAYERS, &graph(edges)), expected);
    }

    #[test]
    fn the_intended_workspace_passes() {
        check(
            &[
                ("opor-core", &["zstd", "serde"]),
                ("opor-store", &["opor-core", "rusqlite"]),
                ("opor-sync-proto", &["opor-core"]),
                ("opor-transport-traits", &["opor-core"]),
                ("opor-transport-conformance", &["opor-transport-traits", "tokio"]),
                ("opor-transport-memory", &["opor-transport-traits", "tokio"]),
                ("opor-transport-websocket", &["opor-transport-traits", "tokio"]),
                ("opor-sync", &["opor-store", "opor-sync-proto", "opor-transport-traits", "tokio"]),
                ("opor-hub", &["opor-sync", "opor-store", "opor-transport-websocket", "axum"]),
                ("opor-cli", &["opor-hub", "opor-store"]),
                ("opor-tests", &["opor-cli", "opor-core"]),
            ],
            &[],
        );
    }

    #[test]
    fn a_room_s_log_knows_its_own_transport_only() {
        check(
            &[
                ("opor-sync-nats", &["opor-transport-nats", "opor-transport-websocket"]),
                ("opor-transport-nats", &[]),
                ("opor-transport-websocket", &[]),
            ],
            &["opor-sync-nats -> opor-transport-websocket: not among what it may use"],
        );
    }

    #[test]
    fn an_outward_edge_is_named() {
        check(
            &[("opor-core", &["opor-store"]), ("opor-store", &[])],
            &["opor-core -> opor-store: not among what it may use"],
        );
    }

    #[test]
    fn transports_do_not_know_each_other() {
        check(
            &[("opor-transport-http", &["opor-transport-websocket"]), ("opor-transport-websocket", &[])],
            &["opor-transport-http -> opor-transport-websocket: not among what it may use"],
        );
    }

    #[test]
    fn the_contract_of_transports_has_no_runtime() {
        check(
            &[("opor-transport-traits", &["tokio"])],
            &["opor-transport-traits -> tokio: opor-transport-traits must not reach tokio"],
        );
    }

    #[test]
    fn a_banned_package_is_found_behind_others() {
        check(
            &[("opor-store", &["opor-core", "pool"]), ("opor-core", &[]), ("pool", &["tokio"])],
            &["opor-store -> pool -> tokio: opor-store must not reach tokio"],
        );
    }

    #[test]
    fn core_has_no_sqlite() {
        check(&[("opor-core", &["rusqlite"])], &["opor-core -> rusqlite: opor-core must not reach rusqlite"]);
    }

    #[test]
    fn the_protocol_knows_core_and_nothing_else() {
        check(
            &[("opor-sync-proto", &["opor-store", "clock"]), ("opor-store", &[]), ("clock", &["tokio"])],
            &[
                "opor-sync-proto -> opor-store: not among what it may use",
                "opor-sync-proto -> clock -> tokio: opor-sync-proto must not reach tokio",
            ],
        );
    }

    #[test]
    fn the_facade_does_not_hold_the_hub() {
        check(
            &[("opor", &["opor-hub"]), ("opor-hub", &[])],
            &["opor -> opor-hub: not among what it may use"],
        );
    }

    #[test]
    fn a_package_without_a_row_is_a_fault() {
        check(&[("opor-news", &[])], &["opor-news has no row in the layer table (xtask/src/layers.rs)"]);
    }
}
