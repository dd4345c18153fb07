//! Makes the files of `fixtures/` for the format that this library writes: `make fixtures`. They are made once per format
//! and committed; `formats.rs` reads those of all formats.
//!
//! As the golden values, the bytes are the same on every x86-64 machine with FMA.
#![cfg(target_arch = "x86_64")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;
mod fixture;

use common::*;
use distillvq_ivf::filter::FilterFormat;
use distillvq_ivf::query_sample::{make_room, offer};
use distillvq_ivf::{
    Builder, CreateOptions, Draw, Model, Offer, PageStore, insert, replace_student, vacuum,
    write_calibration,
};
use distillvq_pages::FORMAT;
use distillvq_pages::memory_store::MemoryStore;
use distillvq_training::TrainOptions;
use fixture::*;
use std::fs;

#[test]
fn the_command_makes_the_files_again() {
    assert!(distillvq_kernels::use_portable());
    assert!(is_x86_feature_detected!("fma"), "see golden.rs");
    let folder = folder(FORMAT);
    let is_making = std::env::var_os("DISTILLVQ_FIXTURES").is_some();
    if is_making {
        fs::create_dir_all(&folder).unwrap();
    }
    let (mut bytes, mut kinds) = (0, [false; 7]);
    for recipe in RECIPES {
        for (file, found) in files(recipe) {
            let path = folder.join(&file);
            if is_making {
                fs::write(&path, &found).unwrap();
            }
            assert!(fs::read(path).unwrap() == found, "{file} differs");
            bytes += found.len();
            if file.ends_with(".index") {
                found
                    .chunks(8192)
                    .for_each(|page| kinds[usize::from(page[24])] = true);
            }
        }
    }
    assert!(bytes < 1 << 20, "{bytes} bytes");
    assert!(kinds[1..].iter().all(|is_there| *is_there), "{kinds:?}");
}

/// The files of an index: names and bytes.
fn files(recipe: Recipe) -> Vec<(String, Vec<u8>)> {
    let store = MemoryStore::new();
    let models = recipe.trained.then(|| models(recipe));
    let create = CreateOptions {
        metric: recipe.metric,
        dim: DIM,
        model: models.as_ref().map(|[model, _]| model),
        refine: recipe.refine,
        filters: FilterFormat::default(),
        model_version: 5,
    };
    let rows = rows_of(recipe, models.as_ref());
    let before = |row| rows.partition_point(|entry| entry.tid.row() < tid(row));
    let (built, inserted) = rows.split_at(before(BUILT));
    let (early, late) = inserted.split_at(before(INSERTED_LATE) - built.len());
    let mut run = built.to_vec();
    run.sort_by_key(|row| row.list);
    let mut builder = Builder::create(&store, create).unwrap();
    builder.append(run.iter().map(Owned::row)).unwrap();
    let meta = builder.finish().unwrap();
    if recipe.trained {
        write_calibration(&store, 5, training(), Some(calibration())).unwrap();
    }
    if recipe.samples {
        let meta = make_room(&store, &meta, BUILT as u64).unwrap();
        for (query, now) in sampled().chunks(DIM).zip(1..) {
            let draw = Draw {
                now,
                interval: 0,
                random: 0,
            };
            assert_eq!(offer(&store, &meta, query, draw).unwrap(), Offer::Kept);
        }
    }
    let insert_all = |rows: &[Owned]| {
        rows.iter()
            .for_each(|row| insert(&store, &meta, row.row()).unwrap());
    };
    insert_all(early);
    vacuum(&store, &mut |tid| is_dead(tid)).unwrap();
    insert_all(late);
    let mut files = Vec::new();
    if let Some([model, retrained]) = &models {
        assert!(model.student_bytes().unwrap() != retrained.student_bytes().unwrap());
        let meta = replace_student(&store, &retrained.student_bytes().unwrap(), 6).unwrap();
        assert!(meta.pages.spare.blocks > 0);
        files.push((
            format!("{}.model", recipe.name),
            retrained.to_bytes().unwrap(),
        ));
    }
    let blocks = 0..store.block_count().unwrap();
    let pages = blocks.flat_map(|block| store.read(block, <[u8]>::to_vec).unwrap());
    files.push((format!("{}.index", recipe.name), pages.collect()));
    files
}

/// All rows, those of an untrained index in the exact list.
fn rows_of(recipe: Recipe, models: Option<&[Model; 2]>) -> Vec<Owned> {
    let Some([model, _]) = models else {
        let row = |i| Owned {
            list: 0,
            tid: tid(i),
            scale: 0,
            norm: 0.0,
            codes: Vec::new(),
            refine: Vec::new(),
        };
        return (0..ROWS).map(row).collect();
    };
    let encode = if recipe.refine {
        encode_refined
    } else {
        encode
    };
    encode(model, &table(), 0)
}

/// A distilled model, and one with the same encoder that was distilled once more.
fn models(recipe: Recipe) -> [Model; 2] {
    let options = TrainOptions {
        metric: recipe.metric,
        lists: FEW_LISTS,
        bits: recipe.bits,
        assignments: recipe.assignments,
        ..TrainOptions::default()
    };
    let [model, retrained] = distilled_models(options, |seed| vectors(600, seed));
    // Models are exported with the queries that calibrations use.
    let retrained = retrained.with_held_out(vectors(20, 6)).unwrap();
    [model, retrained]
}
