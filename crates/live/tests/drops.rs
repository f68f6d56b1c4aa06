//! In whatever order things are let go of, the thread ends. Alone in its process, whose threads are what is counted.
#![cfg(target_os = "linux")]

use std::future::Future;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Wake, Waker};

use futures::StreamExt;
use futures::executor::block_on;
use opor_live::Live;
use opor_store::{OpenOptions, StoreHandle};

/// How many threads keep live queries.
fn threads() -> usize {
    let tasks = std::fs::read_dir("/proc/self/task").expect("this is Linux");
    let names = tasks.flatten().map(|task| std::fs::read_to_string(task.path().join("comm")));
    names.flatten().filter(|name| name.trim() == "opor-live").count()
}

fn wait_until_all_have_ended() {
    // A thread that does not end is seen as a test that does not.
    while threads() > 0 {
        std::thread::yield_now();
    }
}

fn write(handle: &StoreHandle, sql: &'static str) {
    block_on(handle.write(move |store| store.execute_batch(sql))).expect("it runs").expect("it is right");
}

fn open(folder: &std::path::Path, name: &str) -> StoreHandle {
    let handle = StoreHandle::open(folder.join(name), &OpenOptions::new(), 1).expect("it opens");
    write(&handle, "CREATE TABLE IF NOT EXISTS t(a); INSERT INTO t VALUES (1)");
    handle
}

fn orders(of: &[usize]) -> Vec<Vec<usize>> {
    if of.len() < 2 {
        return vec![of.to_vec()];
    }
    let with = |first: usize| {
        let rest: Vec<usize> = of.iter().copied().filter(|other| *other != first).collect();
        orders(&rest).into_iter().map(move |mut order| {
            order.insert(0, first);
            order
        })
    };
    of.iter().flat_map(|first| with(*first)).collect()
}

/// A future that is dropped by the very call that should wake it, on the thread that calls.
struct DropsWhenWoken(Mutex<Option<Pin<Box<dyn Future<Output = ()> + Send>>>>);

impl Wake for DropsWhenWoken {
    fn wake(self: Arc<Self>) {
        let gone = self.0.lock().expect("nobody panics with it").take();
        drop(gone);
    }
}

#[test]
fn the_thread_ends_in_whatever_order_things_go() {
    let folder: PathBuf = std::env::temp_dir().join(format!("opor-live-drops-{}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("a folder");
    for order in orders(&[0, 1, 2, 3, 4]) {
        let handle = open(&folder, "orders.db");
        let live = Live::start(&handle).expect("it starts");
        let subscription =
            block_on(live.query::<i64>("SELECT count(*) FROM t").subscribe()).expect("it subscribes");
        let mut stream = subscription.diffs();
        block_on(stream.next());
        let waiting = subscription.snapshots();
        write(&handle, "INSERT INTO t VALUES (2)");
        let (mut handle, mut live) = (Some(handle), Some(live));
        let (mut subscription, mut stream, mut waiting) = (Some(subscription), Some(stream), Some(waiting));
        for thing in order {
            match thing {
                0 => handle.take().into_iter().for_each(StoreHandle::close),
                1 => drop(live.take()),
                2 => drop(subscription.take()),
                3 => drop(stream.take()),
                _ => drop(waiting.take()),
            }
        }
        wait_until_all_have_ended();
    }

    // The last that holds on to everything goes on the thread itself, while it tells of a commit.
    let handle = open(&folder, "woken.db");
    let live = Live::start(&handle).expect("it starts");
    let subscription =
        block_on(live.query::<i64>("SELECT count(*) FROM t").subscribe()).expect("it subscribes");
    let other = handle.clone();
    let held = Box::pin(async move {
        let mut stream = subscription.snapshots();
        while stream.next().await.is_some() {}
        drop((live, subscription, other));
    });
    let task = Arc::new(DropsWhenWoken(Mutex::new(Some(held))));
    let waker = Waker::from(task.clone());
    {
        let mut future = task.0.lock().expect("nobody panics with it");
        let future = future.as_mut().expect("it has not been woken");
        assert_eq!(future.as_mut().poll(&mut Context::from_waker(&waker)), Poll::Pending);
    }
    write(&handle, "INSERT INTO t VALUES (3)");
    wait_until_all_have_ended();
    assert!(task.0.lock().expect("nobody panics with it").is_none(), "it was dropped there");
    handle.close();
    let _gone = std::fs::remove_dir_all(&folder);
}
