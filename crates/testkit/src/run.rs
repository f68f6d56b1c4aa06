//! A run from its beginning to its end.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};

use opor_sync_proto::MonoMillis;

use crate::event::Step;
use crate::failure::{Failure, Invariant};
use crate::plan::Plan;
use crate::schema::Schema;
use crate::tally::Tally;
use crate::world::World;

/// What a run came to.
#[derive(Clone, Debug)]
pub struct Report {
    /// A number that two runs share only if the same happened in both, at the same times.
    pub trace: u64,
    /// Events, and what stores were asked for.
    pub operations: u64,
    /// How much time passed in it.
    pub lasted: MonoMillis,
    /// How often things happened.
    pub tally: Tally,
    /// What was found wrong, if anything was.
    pub failure: Option<Failure>,
}

/// Plays the steps of a plan, and checks what must hold.
///
/// ```
/// use opor_testkit::{Plan, Schema, run};
///
/// let plan = Plan { steps: 40, ..Plan::from_seed(7) };
/// let report = run(&plan, &Schema::default(), &plan.steps());
/// assert_eq!(report.failure, None);
/// // The same plan is the same run.
/// assert_eq!(run(&plan, &Schema::default(), &plan.steps()).trace, report.trace);
/// ```
///
/// Tables of one's own are tested the same way:
///
/// ```
/// use opor_testkit::{Plan, Schema, run};
///
/// let create = "CREATE TABLE todos(id INTEGER PRIMARY KEY NOT NULL, title TEXT, done INTEGER)";
/// let todos = Schema::new(create, &["todos"], |rng| {
///     let id = rng.below(10);
///     vec![match rng.below(3) {
///         0 => format!("INSERT OR IGNORE INTO todos VALUES ({id}, 'todo {}', 0)", rng.below(100)),
///         1 => format!("UPDATE todos SET done = 1 WHERE id = {id}"),
///         _ => format!("DELETE FROM todos WHERE id = {id}"),
///     }]
/// });
/// let plan = Plan { steps: 40, ..Plan::from_seed(8) };
/// assert_eq!(run(&plan, &todos, &plan.steps()).failure, None);
/// ```
///
/// # Panics
/// When the schema is none: SQL that fails, or a table that cannot replicate. What goes wrong after that is reported.
#[must_use]
pub fn run(plan: &Plan, schema: &Schema, steps: &[Step]) -> Report {
    let mut world = World::new(plan, schema);
    let played = catch_unwind(AssertUnwindSafe(|| play(&mut world, steps)));
    let failure = match played {
        Ok(played) => played.err(),
        Err(panic) => Some(world.failure(Invariant::NoPanic, words(&*panic))),
    };
    Report {
        trace: world.trace.sum(),
        operations: world.operations,
        lasted: world.now,
        tally: std::mem::take(&mut world.tally),
        failure,
    }
}

fn play(world: &mut World<'_>, steps: &[Step]) -> Result<(), Failure> {
    world.begin()?;
    steps.iter().try_for_each(|step| world.perform(step))?;
    world.finish()
}

fn words(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "without words".to_owned())
}
