//! The order of results, with made-up candidates.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use distillvq_ivf::SideLocation;
use distillvq_ivf::rerank::{CandidateSource, Growth, Hit, LateRows, RerankOptions, RerankStream};
use distillvq_ivf::{Candidate, Error, Tid};
use distillvq_pages::Error as PageError;
use proptest::prelude::*;
use std::cmp::Ordering;
use std::collections::{HashMap, HashSet};

/// Lists of candidates, given out by brute force.
#[derive(Clone, Default)]
struct Lists {
    lists: Vec<Vec<Candidate>>,
    exact: Vec<Tid>,
    exact_given: usize,
    probed: usize,
    passes: usize,
    /// Candidates of the probed lists that were not given out, worst first.
    rest: Vec<Candidate>,
    largest_pull: usize,
}

fn order(a: &Candidate, b: &Candidate) -> Ordering {
    b.score.total_cmp(&a.score).then(a.tid.cmp(&b.tid))
}

impl CandidateSource for Lists {
    fn lists(&self) -> usize {
        self.lists.len()
    }
    fn probed(&self) -> usize {
        self.probed
    }
    fn probe(&mut self, more: usize) -> Result<(), Error> {
        let to = (self.probed + more).min(self.lists.len());
        self.rest
            .extend(self.lists[self.probed..to].iter().flatten());
        self.rest.sort_by(|a, b| order(b, a));
        self.probed = to;
        Ok(())
    }
    fn pull(&mut self, n: usize, out: &mut Vec<Candidate>) -> Result<(), Error> {
        self.largest_pull = self.largest_pull.max(n);
        let from = self.rest.len().saturating_sub(n);
        out.extend(self.rest.drain(from..).rev());
        Ok(())
    }
    fn bound(&self) -> Option<f32> {
        self.rest.last().map(|c| c.score)
    }
    fn score(&self, distance: f64) -> f64 {
        -distance
    }
    fn next_exact(&mut self, out: &mut Vec<Tid>) -> Result<(), Error> {
        let rest = self.exact.get(self.exact_given..).unwrap_or_default();
        let next = &rest[..rest.len().min(7)];
        out.extend(next);
        self.exact_given += next.len();
        Ok(())
    }
    fn rewind(&mut self) {
        self.exact_given = 0;
        self.rest = self.lists[..self.probed].concat();
        self.rest.sort_by(|a, b| order(b, a));
        self.passes += 1;
    }
}

/// A source and the true distances of its rows.
#[derive(Clone, Default)]
struct World {
    source: Lists,
    distances: HashMap<Tid, Option<f64>>,
}

fn tid(i: usize) -> Tid {
    Tid {
        block: (i / 100) as u32,
        offset: (i % 100 + 1) as u16,
    }
}

impl World {
    /// Rows `(list, distance, error)`; the last list is the exact one. No distance: not visible.
    fn new(lists: usize, rows: &[(usize, Option<f64>, f64)]) -> World {
        let mut world = World::default();
        world.source.lists = vec![Vec::new(); lists];
        for (i, &(list, distance, error)) in rows.iter().enumerate() {
            world.distances.insert(tid(i), distance);
            match world.source.lists.get_mut(list) {
                Some(list) => {
                    let score = (error - distance.unwrap_or(0.5)) as f32;
                    // As a search does.
                    let score = if score.is_nan() {
                        f32::NEG_INFINITY
                    } else {
                        score
                    };
                    list.push(Candidate {
                        score,
                        tid: tid(i),
                        refine: SideLocation::default(),
                    });
                }
                None => world.source.exact.push(tid(i)),
            }
        }
        world
    }

    fn visible(&self) -> HashSet<Tid> {
        let visible = self.distances.iter().filter(|(_, d)| d.is_some());
        visible.map(|(&tid, _)| tid).collect()
    }

    fn stream(&self, options: RerankOptions) -> RerankStream<Lists> {
        RerankStream::new(self.source.clone(), options)
    }

    fn next(&self, stream: &mut RerankStream<Lists>) -> Option<Hit> {
        let mut fetch = |batch: &[Candidate], out: &mut Vec<Option<f64>>| -> Result<(), Error> {
            assert!(
                batch.is_sorted_by_key(|c| c.tid),
                "batches are in the order of the table"
            );
            out.extend(batch.iter().map(|c| self.distances[&c.tid]));
            Ok(())
        };
        stream.next(&mut fetch).unwrap()
    }

    fn all(&self, options: RerankOptions) -> Vec<Hit> {
        let mut stream = self.stream(options);
        let hits = std::iter::from_fn(|| self.next(&mut stream)).collect();
        assert_eq!(self.next(&mut stream), None, "the end stays the end");
        hits
    }
}

/// PostgreSQL's order of float8.
fn compare(a: f64, b: f64) -> Ordering {
    match (a.is_nan(), b.is_nan()) {
        (false, false) => a.partial_cmp(&b).unwrap(),
        (a, b) => a.cmp(&b),
    }
}

/// Late rows follow at the end.
fn relaxed(options: RerankOptions) -> RerankOptions {
    RerankOptions {
        late: LateRows::Append,
        ..options
    }
}

fn descents(hits: &[Hit]) -> usize {
    let falls = |pair: &&[Hit]| compare(pair[0].distance, pair[1].distance).is_gt();
    hits.windows(2).filter(falls).count()
}

fn distance() -> impl Strategy<Value = Option<f64>> {
    prop_oneof![
        12 => (0.0..1.0f32).prop_map(|d| Some(f64::from(d))),
        2 => (0u8..4).prop_map(|d| Some(f64::from(d) / 4.0)),
        1 => Just(Some(f64::NAN)),
        1 => Just(Some(-f64::NAN)),
        1 => Just(Some(f64::INFINITY)),
        1 => Just(Some(f64::NEG_INFINITY)),
        2 => Just(None),
    ]
}

fn options() -> impl Strategy<Value = RerankOptions> {
    (0..6usize, 0..20usize, 0..10usize, 0.0..4.0f64).prop_map(|(probes, first, batch, z)| {
        RerankOptions {
            probes,
            first_batch: first,
            batch,
            z,
            ..RerankOptions::default()
        }
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn by_default_the_order_is_exact_and_only_late_rows_are_missing(
        rows in prop::collection::vec((0..8usize, distance(), -0.3..0.3f64), 0..300),
        options in options(),
    ) {
        let world = World::new(7, &rows);
        let mut stream = world.stream(options);
        let hits: Vec<Hit> = std::iter::from_fn(|| world.next(&mut stream)).collect();
        let given: HashSet<Tid> = hits.iter().map(|hit| hit.tid).collect();
        prop_assert_eq!(given.len(), hits.len());
        prop_assert!(given.is_subset(&world.visible()));
        prop_assert_eq!(descents(&hits), 0);
        let dropped = stream.stats().dropped as usize;
        prop_assert_eq!(hits.len() + dropped, world.visible().len());
    }

    #[test]
    fn relaxed_exhaustion_gives_every_visible_row_once_with_at_most_one_descent(
        rows in prop::collection::vec((0..8usize, distance(), -0.3..0.3f64), 0..300),
        options in options(),
    ) {
        let world = World::new(7, &rows);
        let hits = world.all(relaxed(options));
        let given: HashSet<Tid> = hits.iter().map(|hit| hit.tid).collect();
        prop_assert_eq!(given.len(), hits.len());
        prop_assert_eq!(given, world.visible());
        prop_assert!(descents(&hits) <= 1, "the second ascent holds the rows put aside");
    }

    #[test]
    fn sharp_estimates_of_all_lists_give_the_exact_order(
        rows in prop::collection::vec((0..8usize, distance()), 0..300),
    ) {
        let rows: Vec<_> = rows.into_iter().map(|(list, distance)| (list, distance, 0.0)).collect();
        let world = World::new(7, &rows);
        let hits = world.all(RerankOptions { probes: 7, ..RerankOptions::default() });
        prop_assert_eq!(descents(&hits), 0);
    }

    #[test]
    fn a_source_that_repeats_a_row_does_not_make_the_stream_repeat_it(
        rows in prop::collection::vec((0..5usize, distance(), -0.1..0.1f64), 0..100),
    ) {
        let mut world = World::new(4, &rows);
        let copies = world.source.lists[0].clone();
        world.source.lists[3].extend(copies.iter().map(|c| Candidate { score: c.score - 0.2, ..*c }));
        let hits = world.all(relaxed(RerankOptions::default()));
        prop_assert_eq!(hits.len(), world.visible().len());
        let hits = world.all(RerankOptions::default());
        let given: HashSet<Tid> = hits.iter().map(|hit| hit.tid).collect();
        prop_assert_eq!(given.len(), hits.len());
    }
}

/// `n` rows over `lists` lists, the nearer the row the better its list, with errors of this size.
fn graded(n: usize, lists: usize, noise: f64) -> World {
    let rows: Vec<_> = (0..n)
        .map(|i| {
            let error = noise * ((i * 7919 % 1000) as f64 / 500.0 - 1.0);
            (i * lists / n, Some(i as f64 / n as f64), error)
        })
        .collect();
    World::new(lists, &rows)
}

#[test]
fn few_rows_are_compared_for_a_small_limit() {
    let world = graded(20_000, 20, 0.001);
    let mut stream = world.stream(RerankOptions {
        probes: 4,
        ..RerankOptions::default()
    });
    for i in 0..10 {
        assert_eq!(world.next(&mut stream).unwrap().tid, tid(i));
    }
    assert!(stream.stats().reranked <= 150, "{:?}", stream.stats());
    assert_eq!(stream.stats().probed, 4);
}

#[test]
fn noisier_estimates_mean_more_comparisons() {
    let compared = |noise| {
        let world = graded(5_000, 1, noise);
        let mut stream = world.stream(RerankOptions::default());
        let hits: Vec<_> = (0..10).map(|_| world.next(&mut stream).unwrap()).collect();
        assert_eq!(descents(&hits), 0);
        stream.stats().reranked
    };
    let (sharp, blurred) = (compared(0.0), compared(0.05));
    assert!(sharp <= 80 && blurred > 2 * sharp, "{sharp} {blurred}");
}

#[test]
fn a_row_left_out_is_as_if_it_were_not_there() {
    let without = graded(5_000, 1, 0.002);
    // A row whose estimate is far off, as that of the query itself.
    let mut with = without.clone();
    let own = tid(5_000);
    with.distances.insert(own, Some(-1.0));
    with.source.lists[0].push(Candidate {
        score: 0.0,
        tid: own,
        refine: SideLocation::default(),
    });
    let ten = |world: &World, excluded: Option<Tid>| {
        let mut stream = world.stream(RerankOptions {
            first_batch: 48,
            ..RerankOptions::default()
        });
        excluded.into_iter().for_each(|tid| stream.exclude(tid));
        let hits: Vec<_> = (0..10).map(|_| world.next(&mut stream).unwrap()).collect();
        (hits, stream.stats().reranked)
    };
    let expected = ten(&without, None);
    assert_eq!(ten(&with, Some(own)), expected);
    let (hits, compared) = ten(&with, None);
    assert!(hits[0].tid == own && compared > expected.1, "{compared}");
}

#[test]
fn probes_grow_as_measured() {
    let world = graded(10_000, 100, 0.001);
    let options = RerankOptions {
        probes: 4,
        growth: Growth::new(&[6, 30]),
        ahead: 0.0,
        ..RerankOptions::default()
    };
    // The second gives out 15 rows ahead of those that are wanted.
    for (rows, ahead) in [(10, 0), (25, 15)] {
        let mut stream = world.stream(RerankOptions { rows, ..options });
        for given in 0..100 {
            world.next(&mut stream).unwrap();
            let probed = stream.stats().probed;
            let expected = match given - ahead {
                ..10 => 4..=4,
                10..20 => 6..=9,
                _ => 30..=100,
            };
            assert!(expected.contains(&probed), "{given} given, {probed} probed");
        }
    }
}

#[test]
fn probes_grow_with_the_rows_given_out() {
    let world = graded(10_000, 100, 0.001);
    let mut stream = world.stream(RerankOptions {
        probes: 4,
        ..RerankOptions::default()
    });
    for given in 0..3000 {
        world.next(&mut stream).unwrap();
        let wanted = (4.0 * (f64::from(given) / 10.0).max(1.0).powf(0.6)).ceil() as usize;
        let probed = stream.stats().probed;
        assert!(probed >= wanted.min(100), "{given} given, {probed} probed");
        assert!(given >= 10 || probed == 4);
    }
}

#[test]
fn probes_stop_at_their_limit() {
    let world = graded(1000, 10, 0.01);
    let hits = world.all(RerankOptions {
        probes: 2,
        max_probes: 5,
        ..RerankOptions::default()
    });
    assert_eq!(hits.len(), 500);
}

#[test]
fn a_row_found_late_comes_last_and_the_order_stays() {
    let hits = with_two_found_late().all(relaxed(RerankOptions::default()));
    assert_eq!(descents(&hits[..200]), 0);
    assert_eq!(hits[200].distance, 0.2);
    assert_eq!(hits[201].distance, 0.5);
}

#[test]
fn rows_of_the_exact_list_compete_from_the_start() {
    let mut rows: Vec<_> = (0..100)
        .map(|i| (0, Some(1.0 + f64::from(i)), 0.0))
        .collect();
    rows.push((1, Some(0.5), 0.0));
    rows.push((1, Some(3.5), 0.0));
    let hits = World::new(1, &rows).all(RerankOptions::default());
    assert_eq!(hits[0].tid, tid(100));
    assert_eq!(hits[4].tid, tid(101));
    assert_eq!(descents(&hits), 0);
}

#[test]
fn pulls_are_bounded() {
    let world = graded(30_000, 3, 0.0);
    let mut stream = world.stream(RerankOptions {
        probes: 3,
        batch: 2000,
        ..RerankOptions::default()
    });
    for _ in 0..12_000 {
        world.next(&mut stream).unwrap();
    }
    assert!(stream.source().largest_pull <= 4096);
}

#[test]
fn errors_of_fetching_and_wrong_answers_are_passed_on() {
    let world = graded(100, 1, 0.0);
    let mut stream = world.stream(RerankOptions::default());
    let mut failing = |_: &[Candidate], _: &mut Vec<Option<f64>>| {
        Err(Error::Pages(PageError::Store("no".into())))
    };
    assert!(matches!(
        stream.next(&mut failing),
        Err(Error::Pages(PageError::Store(_)))
    ));
    let mut stream = world.stream(RerankOptions::default());
    let mut silent = |_: &[Candidate], _: &mut Vec<Option<f64>>| Ok::<(), Error>(());
    assert!(matches!(
        stream.next(&mut silent),
        Err(Error::Pages(PageError::Mismatch(_)))
    ));
}

#[test]
fn an_empty_source_is_at_its_end() {
    assert!(World::new(0, &[]).all(RerankOptions::default()).is_empty());
    assert!(World::new(5, &[]).all(RerankOptions::default()).is_empty());
}

/// Options with as many first probes.
fn probing(probes: usize) -> RerankOptions {
    RerankOptions {
        probes,
        ..RerankOptions::default()
    }
}

/// The second of two lists holds the two nearest rows, which the first probe misses.
fn with_two_found_late() -> World {
    let mut rows: Vec<_> = (0..200)
        .map(|i| (0, Some(1.0 + f64::from(i)), 0.0))
        .collect();
    rows.push((1, Some(0.5), 0.0));
    rows.push((1, Some(0.2), 0.0));
    World::new(2, &rows)
}

#[test]
fn a_strict_order_drops_what_is_found_late() {
    let hits = with_two_found_late().all(probing(1));
    assert_eq!(hits.len(), 200);
    assert_eq!(descents(&hits), 0);
}

#[test]
fn the_first_probes_alone_give_all_their_rows() {
    let world = graded(1000, 10, 0.01);
    let mut stream = world.stream(RerankOptions {
        max_probes: 2,
        ..probing(2)
    });
    let hits: Vec<_> = std::iter::from_fn(|| world.next(&mut stream)).collect();
    assert_eq!((hits.len(), stream.stats().probed), (200, 2));
}

#[test]
fn after_enough_comparisons_no_further_lists_are_probed() {
    let world = graded(10_000, 100, 0.001);
    let probed = |max_reranked| {
        let mut stream = world.stream(RerankOptions {
            max_reranked,
            ..probing(4)
        });
        let rows = std::iter::from_fn(|| world.next(&mut stream)).count();
        assert_eq!(rows, stream.stats().probed * 100, "all rows of those lists");
        stream.stats().probed
    };
    assert_eq!(probed(u64::MAX), 100);
    assert_eq!(probed(0), 4, "the first ones always");
    let some = probed(200);
    assert!((5..60).contains(&some), "{some}");
}

/// All rows within a distance, and how many were compared for them.
fn within(world: &World, farthest: f64, options: RerankOptions) -> (Vec<Hit>, u64) {
    let mut stream = world.stream(options);
    stream.set_max_distance(farthest);
    let hits = std::iter::from_fn(|| world.next(&mut stream)).collect();
    assert_eq!(world.next(&mut stream), None, "the end stays the end");
    (hits, stream.stats().reranked)
}

#[test]
fn a_distance_ends_the_stream() {
    let world = graded(20_000, 20, 0.001);
    for wanted in [0, 1, 30, 1500] {
        let farthest = f64::from(wanted) / 20_000.0 - 1e-9;
        let (hits, compared) = within(&world, farthest, probing(4));
        let near = hits.iter().filter(|hit| hit.distance <= farthest).count();
        assert_eq!(near as i32, wanted);
        assert_eq!(descents(&hits), 0);
        assert!(compared <= near as u64 + 300, "{wanted}: {compared}");
    }
}

#[test]
fn a_distance_that_excludes_nothing_or_everything() {
    let world = graded(3_000, 10, 0.001);
    for farthest in [f64::NAN, -f64::NAN, f64::INFINITY, 1.0] {
        let (hits, _) = within(&world, farthest, probing(1));
        assert_eq!(hits.len(), 3_000, "{farthest}");
    }
    for farthest in [-1e-300, -1.0, f64::NEG_INFINITY] {
        let (hits, compared) = within(&world, farthest, probing(1));
        assert!(hits.is_empty() && compared < 150, "{farthest}: {compared}");
    }
    // Both zeros are one.
    let (hits, _) = within(&world, -0.0, probing(1));
    assert_eq!(hits.len(), 1);
}

#[test]
fn what_was_put_aside_follows_also_after_a_distance() {
    let mut stream = with_two_found_late();
    // Far rows in a third list, so that the distance is what ends the search.
    stream.source.lists.push(Vec::new());
    for i in 0..5000 {
        let row = tid(1000 + i);
        stream.distances.insert(row, Some(1e4 + i as f64));
        stream.source.lists[2].push(Candidate {
            score: -1e4 - i as f32,
            tid: row,
            refine: SideLocation::default(),
        });
    }
    let (hits, compared) = within(&stream, 150.0, relaxed(probing(1)));
    let last: Vec<f64> = hits.iter().rev().take(2).map(|hit| hit.distance).collect();
    assert_eq!(last, [0.5, 0.2]);
    assert_eq!(hits.iter().filter(|hit| hit.distance <= 150.0).count(), 152);
    assert!(compared < 1000, "{compared}");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn nothing_within_a_distance_is_lost_when_estimates_are_sharp(
        rows in prop::collection::vec((0..6usize, distance()), 0..400),
        farthest in prop_oneof![Just(f64::NAN), Just(0.25), 0.0..1.0f64],
        options in options(),
    ) {
        let rows: Vec<_> = rows.into_iter().map(|(list, distance)| (list, distance, 0.0)).collect();
        let world = World::new(5, &rows);
        let (hits, _) = within(&world, farthest, RerankOptions { probes: 5, z: 3.5, ..options });
        let wanted = |d: &&Option<f64>| d.is_some_and(|d| compare(d, farthest).is_le());
        let near = hits.iter().filter(|hit| compare(hit.distance, farthest).is_le()).count();
        prop_assert_eq!(near, world.distances.values().filter(wanted).count());
        prop_assert_eq!(descents(&hits), 0);
    }
}

#[test]
fn rows_that_do_not_fit_into_memory_are_found_in_further_passes() {
    // Many rows at each distance, in lists and in the exact one, two thirds of them behind bad estimates.
    let rows: Vec<_> = (0..100_000)
        .map(|i| {
            (
                i % 5,
                Some((i * 7919 % 3_000) as f64),
                (i % 3) as f64 * 500.0,
            )
        })
        .collect();
    let world = World::new(4, &rows);
    let mut expected: Vec<(f64, Tid)> =
        (0..100_000).map(|i| (rows[i].1.unwrap(), tid(i))).collect();
    expected.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
    for late in [LateRows::Drop, LateRows::Append] {
        let mut stream = world.stream(RerankOptions {
            probes: 4,
            z: 1e9,
            first_batch: 80_000,
            memory: 0,
            late,
            ..RerankOptions::default()
        });
        let hits: Vec<_> = std::iter::from_fn(|| world.next(&mut stream)).collect();
        let hits: Vec<_> = hits.iter().map(|hit| (hit.distance, hit.tid)).collect();
        assert_eq!(hits, expected);
        assert!(stream.source().passes > 10);
        stream = world.stream(RerankOptions {
            probes: 4,
            z: 1e9,
            first_batch: 80_000,
            memory: 0,
            late,
            ..RerankOptions::default()
        });
        stream.set_max_distance(1_000.0);
        let near = std::iter::from_fn(|| world.next(&mut stream))
            .take_while(|hit| hit.distance <= 1_000.0);
        let near: Vec<_> = near.map(|hit| (hit.distance, hit.tid)).collect();
        let within = expected.partition_point(|(distance, _)| *distance <= 1_000.0);
        assert_eq!(near, expected[..within]);
    }
}

#[test]
fn late_rows_that_do_not_fit_into_memory_are_an_error() {
    let world = with_two_found_late();
    let mut stream = world.stream(relaxed(RerankOptions {
        memory: 0,
        ..probing(1)
    }));
    let mut fetch = |batch: &[Candidate], out: &mut Vec<Option<f64>>| -> Result<(), Error> {
        out.extend(batch.iter().map(|c| world.distances[&c.tid]));
        Ok(())
    };
    let failure = loop {
        match stream.next(&mut fetch) {
            Ok(Some(_)) => {}
            Ok(None) => panic!("no error"),
            Err(error) => break error,
        }
    };
    assert!(matches!(failure, Error::LateRows { .. }), "{failure}");
}
