//! Two actors over one store whose steps are interleaved as a schedule says: one thread runs at a time, and whenever it is
//! about to do something that the other may see or hinder, the schedule decides who goes on.
//!
//! A step is asking for the size, reading a page, locking one, appending one. A page that one actor has locked neither is
//! read nor locked by the other before the change is committed or given up, as in PostgreSQL. What an actor does between
//! two steps touches nothing that the other can see: all interleavings differ in the order of steps alone.

use distillvq_ivf::{PageStore, PageWrite};
use distillvq_pages::Error;
use distillvq_pages::memory_store::{MemoryStore, MemoryWrite};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::collections::HashMap;
use std::sync::{Condvar, Mutex, MutexGuard};
use std::thread;

/// Whether to switch to the other actor at each place where both could go on; `false` beyond its end.
pub type Switches = Vec<bool>;

/// Who decides.
pub enum Plan {
    /// All schedules with at most so many switches away from an actor that could go on, one after the other.
    Exhaustive(usize),
    /// So many schedules at random.
    Random(usize),
}

/// What an actor is about to do.
#[derive(Clone, Copy, PartialEq)]
enum Wish {
    /// Something that is always possible.
    Anything,
    /// To read or lock a page.
    Page(u32),
}

#[derive(Default)]
struct State {
    /// Who runs, once both have come.
    turn: Option<usize>,
    wishes: [Option<Wish>; 2],
    done: [bool; 2],
    /// Locked pages.
    holders: HashMap<u32, usize>,
    plan: Switches,
    /// What was decided where both could go on.
    taken: Switches,
}

impl State {
    fn may_go_on(&self, actor: usize) -> bool {
        let free = |block| {
            self.holders
                .get(&block)
                .is_none_or(|&holder| holder == actor)
        };
        match self.wishes[actor] {
            Some(Wish::Page(block)) => free(block),
            Some(Wish::Anything) => true,
            None => false,
        }
    }

    /// Gives the turn to an actor that can go on.
    fn decide(&mut self) {
        if (0..2).any(|actor| self.wishes[actor].is_none() && !self.done[actor]) {
            return; // somebody is still under way, or has not begun
        }
        let last = self.turn.unwrap_or(0);
        let (this, other) = (self.may_go_on(last), self.may_go_on(1 - last));
        let switch = match (this, other) {
            (true, true) => {
                let planned = self.plan.get(self.taken.len()).copied();
                self.taken.push(planned.unwrap_or(false));
                planned.unwrap_or(false)
            }
            (true, false) => false,
            (false, true) => true,
            (false, false) => {
                assert_eq!(self.done, [true; 2], "a deadlock");
                return;
            }
        };
        let next = if switch { 1 - last } else { last };
        self.wishes[next] = None;
        self.turn = Some(next);
    }
}

/// What both actors pass before each step.
#[derive(Default)]
struct Gate {
    state: Mutex<State>,
    changed: Condvar,
}

impl Gate {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    fn pass(&self, me: usize, wish: Wish) {
        let mut state = self.state();
        state.wishes[me] = Some(wish);
        state.decide();
        self.changed.notify_all();
        while state.turn != Some(me) || state.wishes[me].is_some() {
            state = self.changed.wait(state).unwrap();
        }
    }

    fn end(&self, me: usize) {
        let mut state = self.state();
        state.done[me] = true;
        state.decide();
        self.changed.notify_all();
    }
}

/// A store as one of the actors sees it.
pub struct Actor<'a> {
    store: &'a MemoryStore,
    gate: &'a Gate,
    me: usize,
    /// Pages that nobody changes: to read them is no step.
    fixed: &'a [u32],
}

impl Actor<'_> {
    fn page(&self, block: u32) {
        if !self.fixed.contains(&block) {
            self.gate.pass(self.me, Wish::Page(block));
        }
    }
}

impl PageStore for Actor<'_> {
    type Write<'a>
        = ActorWrite<'a>
    where
        Self: 'a;

    fn block_count(&self) -> Result<u32, Error> {
        self.gate.pass(self.me, Wish::Anything);
        self.store.block_count()
    }

    fn read<T>(&self, block: u32, f: impl FnOnce(&[u8]) -> T) -> Result<T, Error> {
        self.page(block);
        self.store.read(block, f)
    }

    fn write(&self) -> Result<ActorWrite<'_>, Error> {
        Ok(ActorWrite {
            actor: self,
            inner: Some(self.store.write()?),
            held: Vec::new(),
        })
    }

    fn check_interrupts(&self) -> Result<(), Error> {
        self.store.check_interrupts()
    }
}

/// A change of an actor.
pub struct ActorWrite<'a> {
    actor: &'a Actor<'a>,
    inner: Option<MemoryWrite<'a>>,
    held: Vec<u32>,
}

impl<'a> ActorWrite<'a> {
    fn inner(&mut self) -> &mut MemoryWrite<'a> {
        self.inner.as_mut().unwrap()
    }

    fn hold(&mut self, block: u32) {
        let me = self.actor.me;
        let before = self.actor.gate.state().holders.insert(block, me);
        assert_eq!(before, None);
        self.held.push(block);
    }
}

impl PageWrite for ActorWrite<'_> {
    fn lock(&mut self, block: u32) -> Result<usize, Error> {
        self.actor.gate.pass(self.actor.me, Wish::Page(block));
        self.hold(block);
        self.inner().lock(block)
    }

    fn extend(&mut self) -> Result<(u32, usize), Error> {
        self.actor.gate.pass(self.actor.me, Wish::Anything);
        let (block, slot) = self.inner().extend()?;
        self.hold(block);
        Ok((block, slot))
    }

    fn page(&mut self, slot: usize) -> &mut [u8] {
        self.inner().page(slot)
    }

    fn commit(mut self) -> Result<(), Error> {
        self.inner.take().unwrap().commit()
    }
}

impl Drop for ActorWrite<'_> {
    fn drop(&mut self) {
        drop(self.inner.take());
        let mut state = self.actor.gate.state();
        for block in &self.held {
            state.holders.remove(block);
        }
    }
}

/// Work of an actor over its store.
pub type Work<'w, T> = dyn Fn(&Actor<'_>) -> T + Sync + 'w;

/// Runs both actors over the store as a schedule says. Returns what they return and what was decided.
fn run<T: Send, U: Send>(
    store: &MemoryStore,
    fixed: &[u32],
    (first, second): (&Work<'_, T>, &Work<'_, U>),
    plan: Switches,
) -> (T, U, Switches) {
    let gate = Gate::default();
    gate.state().plan = plan;
    let actor = |me| Actor {
        store,
        gate: &gate,
        me,
        fixed,
    };
    let (a, b) = thread::scope(|scope| {
        let second = scope.spawn(|| act(&actor(1), second));
        let first = act(&actor(0), first);
        (first, second.join().unwrap())
    });
    let taken = std::mem::take(&mut gate.state().taken);
    (a, b, taken)
}

fn act<T>(actor: &Actor<'_>, work: &Work<'_, T>) -> T {
    let _end = End(actor);
    actor.gate.pass(actor.me, Wish::Anything);
    work(actor)
}

/// Lets the other actor go on when this one ends, be it by a failed assertion.
struct End<'a>(&'a Actor<'a>);

impl Drop for End<'_> {
    fn drop(&mut self) {
        if !thread::panicking() || !self.0.gate.state.is_poisoned() {
            self.0.gate.end(self.0.me);
        }
    }
}

/// Runs both actors over copies of `store` under all schedules of a plan, and shows each outcome to `judge`: the store
/// afterwards and what the actors returned. Returns the number of schedules.
pub fn interleave<T: Send, U: Send>(
    store: &MemoryStore,
    fixed: &[u32],
    plan: Plan,
    works: (&Work<'_, T>, &Work<'_, U>),
    mut judge: impl FnMut(&MemoryStore, T, U, &Switches),
) -> usize {
    let mut schedule = |switches| {
        let copy = store.copy();
        let (a, b, taken) = run(&copy, fixed, works, switches);
        judge(&copy, a, b, &taken);
        taken
    };
    match plan {
        Plan::Exhaustive(most) => {
            let (mut count, mut next) = (0, Some(Vec::new()));
            while let Some(switches) = next {
                let taken = schedule(switches);
                next = successor(taken, most);
                count += 1;
            }
            count
        }
        Plan::Random(count) => {
            for seed in 0..count {
                let mut rng = ChaCha8Rng::seed_from_u64(seed as u64);
                let often = rng.random_range(0.02..0.6);
                let switches = (0..10_000).map(|_| rng.random::<f64>() < often);
                schedule(switches.collect());
            }
            count
        }
    }
}

/// The schedule after this one in the order of a depth-first search, with at most so many switches.
fn successor(mut taken: Switches, most: usize) -> Option<Switches> {
    loop {
        let last = taken.pop()?;
        let before = taken.iter().filter(|switch| **switch).count();
        if !last && before < most {
            taken.push(true);
            return Some(taken);
        }
    }
}
