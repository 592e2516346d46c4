//! What matters most is served first and turned away last, from the client's field to the callee's gate.

use std::cell::Cell;
use std::net::SocketAddr;
use std::rc::Rc;

use isthmus_balance::constants::QUEUE_LONGEST;
use tokio::io::AsyncWriteExt;
use tokio::sync::{mpsc, oneshot};
use tokio::task::{JoinHandle, spawn_local, yield_now};

use super::{HELLO, play_caller, request};
use crate::mux::{Link, Stream};
use crate::testing::{HOST, Scene, program, read_head, run, within};

/// A program that holds every request until it is told to answer.
struct Holding {
    address: SocketAddr,
    arrivals: mpsc::UnboundedReceiver<Arrived>,
    /// It holds nothing any more.
    opened: Rc<Cell<bool>>,
}

/// A request that the program holds.
struct Arrived {
    head: String,
    answer: oneshot::Sender<()>,
}

impl Holding {
    async fn new() -> Self {
        let (arrived, arrivals) = mpsc::unbounded_channel();
        let opened = Rc::new(Cell::new(false));
        let is_open = Rc::clone(&opened);
        let address = program(move |mut socket| {
            let (arrived, is_open) = (arrived.clone(), Rc::clone(&is_open));
            async move {
                loop {
                    let head = read_head(&mut socket).await;
                    if head.is_empty() {
                        return;
                    }
                    if !is_open.get() {
                        let (answer, answered) = oneshot::channel();
                        arrived.send(Arrived { head, answer }).ok();
                        answered.await.ok();
                    }
                    if socket.write_all(HELLO.as_bytes()).await.is_err() {
                        return;
                    }
                }
            }
        })
        .await;
        Self {
            address,
            arrivals,
            opened,
        }
    }

    /// Answers all that it holds, and from now on at once.
    fn open(&mut self) {
        self.opened.set(true);
        while let Ok(held) = self.arrivals.try_recv() {
            held.answer.send(()).ok();
        }
    }
}

fn in_program(scene: &Scene) -> usize {
    usize::try_from(scene.callee.worker.gates.in_service()).unwrap()
}

fn queued(scene: &Scene) -> usize {
    scene.callee.worker.gates.queued()
}

async fn until(is_so: impl Fn() -> bool) {
    within(async {
        while !is_so() {
            yield_now().await;
        }
    })
    .await;
}

/// One that asks through its proxy; `priority` as its field says it, and as its path says for the test.
fn ask(scene: &Rc<Scene>, priority: &str) -> JoinHandle<String> {
    let field = match priority {
        "unsaid" => String::new(),
        said => format!("x-isthmus-priority: {said}\r\n"),
    };
    let request =
        format!("GET /{priority} HTTP/1.1\r\nhost: {HOST}\r\n{field}connection: close\r\n\r\n");
    let scene = Rc::clone(scene);
    spawn_local(async move { scene.ask(&request).await })
}

/// Asks, and waits until the request is in the program or in the queue.
async fn ask_and_arrive(scene: &Rc<Scene>, priority: &str) -> JoinHandle<String> {
    let before = in_program(scene) + queued(scene);
    let asking = ask(scene, priority);
    until(|| in_program(scene) + queued(scene) > before).await;
    asking
}

/// More than a program is given at once of which nothing is known.
const CROWD: usize = 24;

/// `count` requests of no said priority, from a proxy that the test plays.
async fn crowd(scene: &Scene, link: &Link, count: usize) -> Vec<Stream> {
    let all = in_program(scene) + queued(scene) + count;
    let mut streams = Vec::new();
    for _ in 0..count {
        within(link.room()).await;
        streams.push(link.open(&request("GET", &[]), true).unwrap());
    }
    until(|| in_program(scene) + queued(scene) == all).await;
    streams
}

fn path_of(arrived: &Arrived) -> &str {
    arrived.head.split(' ').nth(1).unwrap()
}

#[test]
fn of_those_who_wait_who_matters_most_is_served_first() {
    for scene in [Scene::local, Scene::stretched] {
        run(async {
            let mut program = Holding::new().await;
            let scene = Rc::new(scene(program.address));
            let link = play_caller(&scene).await;
            let _crowd = crowd(&scene, &link, CROWD).await;
            assert!(queued(&scene) > 0, "the program has not been given all");
            let mut asking = Vec::new();
            for priority in ["low", "urgent", "unsaid", "low", "HIGH", "normal", "high"] {
                asking.push(ask_and_arrive(&scene, priority).await);
            }
            // From time to time a gate finds that there is room for some more.
            let mut held = Vec::new();
            while held.len() < in_program(&scene) {
                held.push(within(program.arrivals.recv()).await.unwrap());
            }
            let waited = queued(&scene);
            let is_early = held.iter().any(|arrived| path_of(arrived) == "/high");
            assert!(held.iter().all(|arrived| path_of(arrived) != "/low"));

            // How many have their turn when one is answered that the program holds is for the gate to say:
            // none, as long as it holds more than it may.
            let mut served = Vec::new();
            while served.len() < waited {
                let left = in_program(&scene) + queued(&scene) - 1;
                let answered: Arrived = held.pop().expect("who waits for nothing is served");
                answered.answer.send(()).unwrap();
                until(|| in_program(&scene) + queued(&scene) == left).await;
                let mut turns = Vec::new();
                while queued(&scene) + served.len() + turns.len() < waited {
                    let arrived = within(program.arrivals.recv()).await.unwrap();
                    let path = path_of(&arrived);
                    turns.push(match path {
                        "/high" => 0,
                        "/low" => 2,
                        _ => 1,
                    });
                    let has_field = arrived.head.contains("x-isthmus-priority: ");
                    assert_eq!(has_field, !["/", "/unsaid"].contains(&path), "{path}");
                    held.insert(0, arrived);
                }
                // Each of those whose turn comes at once connects to the program for itself.
                turns.sort_unstable();
                served.extend(turns);
            }
            assert!(served.is_sorted(), "{served:?}");
            assert_eq!(served.contains(&0), !is_early, "{served:?}");
            assert_eq!(served[waited - 3..], [1, 2, 2]);
            for arrived in held {
                arrived.answer.send(()).unwrap();
            }
            for asking in asking {
                let reply = within(asking).await.unwrap();
                assert!(reply.starts_with("HTTP/1.1 200 "), "{reply}");
            }
        });
    }
}

#[test]
fn who_matters_least_is_turned_away_first() {
    for scene in [Scene::local, Scene::stretched] {
        run(async {
            let mut program = Holding::new().await;
            let scene = Rc::new(scene(program.address));
            // One carries no more than may wait.
            let links = [play_caller(&scene).await, play_caller(&scene).await];
            let mut crowds = crowd(&scene, &links[0], CROWD).await;
            let room = QUEUE_LONGEST - queued(&scene) - CROWD;
            crowds.extend(crowd(&scene, &links[0], room).await);
            let mut asking = Vec::new();
            for priority in ["low", "normal", "high"] {
                asking.push(ask_and_arrive(&scene, priority).await);
            }
            let low = asking.remove(0);
            // More of no said priority than can wait: first one of low priority that waits has to leave, then
            // one is turned away that comes.
            for low in [low, ask(&scene, "low")] {
                while !low.is_finished() {
                    within(links[1].room()).await;
                    crowds.push(links[1].open(&request("GET", &[]), true).unwrap());
                    yield_now().await;
                }
                let reply = low.await.unwrap();
                assert!(reply.starts_with("HTTP/1.1 503 "), "{reply}");
                assert!(
                    reply.contains("x-isthmus-refusal: overloaded\r\n"),
                    "{reply}"
                );
                assert!(reply.contains("\r\nretry-after: "), "{reply}");
            }
            assert!(queued(&scene) > QUEUE_LONGEST / 2, "all others wait");
            assert!(!asking.iter().any(JoinHandle::is_finished));

            drop((crowds, links));
            program.open();
            for served in asking {
                let reply = within(served).await.unwrap();
                assert!(reply.starts_with("HTTP/1.1 200 "), "{reply}");
            }
            until(|| in_program(&scene) + queued(&scene) == 0).await;
        });
    }
}
