//! The model in the pages of an index: its encoder is the base blob, its student the current one.

use crate::error::Error;
use crate::index_meta::Meta;
use crate::{Model, PageStore};
use distillvq_pages::{chain, read_blobs, replace_blob};

/// The bytes of the encoder of a trained index.
pub fn encoder_bytes<S: PageStore>(store: &S, meta: &Meta) -> Result<Vec<u8>, Error> {
    Ok(chain::read(store, &meta.pages.base)?)
}

/// The bytes of encoder and student of a trained index. They are of one model even if the student is replaced meanwhile: then
/// `meta` is brought up to date, and its model version is that of the bytes.
pub fn model_bytes<S: PageStore>(store: &S, meta: &mut Meta) -> Result<[Vec<u8>; 2], Error> {
    let version = meta.model_version();
    let bytes = read_blobs(store, &mut meta.pages)?;
    if meta.model_version() != version {
        // Training and calibration may be those of the new student.
        let now = Meta::read(store)?;
        *meta = Meta {
            pages: meta.pages,
            ..now
        };
    }
    Ok(bytes)
}

/// Reads the model of an index; `None` if it is untrained. If the student was replaced since `meta` was read, `meta` may
/// be brought up to date: afterwards its model version is that of the model.
pub fn load_model<S: PageStore>(store: &S, meta: &mut Meta) -> Result<Option<Model>, Error> {
    if !meta.has_model() {
        return Ok(None);
    }
    let [encoder, student] = model_bytes(store, meta)?;
    let model = Model::from_parts(&encoder, &student)?;
    meta.check_model(&model)?;
    Ok(Some(model))
}

/// Gives a trained index a new student, as bytes from [`Model::student_bytes_for`] the index's encoder. At most one replacement may be under way;
/// everything else may go on. `model_version` is a random number that marks the change. Returns the new metapage.
pub fn replace_student<S: PageStore>(
    store: &S,
    student: &[u8],
    model_version: u64,
) -> Result<Meta, Error> {
    let meta = Meta::read(store)?;
    if !meta.has_model() {
        return Err(Error::mismatch("an untrained index has no model"));
    }
    Model::from_parts(&encoder_bytes(store, &meta)?, student)?;
    let pages = replace_blob(store, student, model_version)?;
    Ok(Meta { pages, ..meta })
}
