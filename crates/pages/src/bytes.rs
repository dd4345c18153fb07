//! Sizes of the parts of a page, and numbers at offsets.

/// Size of a page.
pub const PAGE_SIZE: usize = 8192;
/// Bytes at the start of a page which belong to PostgreSQL.
pub const PG_HEADER_SIZE: usize = 24;
/// Where the body of a page starts.
pub const BODY: usize = 64;
/// Bytes of the body of a page.
pub const BODY_SIZE: usize = PAGE_SIZE - BODY;

/// `N` bytes at an offset; zeros beyond the end of the page.
pub fn get<const N: usize>(page: &[u8], at: usize) -> [u8; N] {
    page.get(at..)
        .and_then(|rest| rest.first_chunk::<N>())
        .copied()
        .unwrap_or([0; N])
}

/// A little-endian u16 at an offset.
pub fn get_u16(page: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(get(page, at))
}

/// A little-endian u32 at an offset.
pub fn get_u32(page: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(get(page, at))
}

/// A little-endian u64 at an offset.
pub fn get_u64(page: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(get(page, at))
}

/// A little-endian f32 at an offset.
pub fn get_f32(page: &[u8], at: usize) -> f32 {
    f32::from_le_bytes(get(page, at))
}

/// Stores bytes at an offset; nothing is stored if they do not fit.
pub fn put(page: &mut [u8], at: usize, bytes: &[u8]) {
    if let Some(place) = page.get_mut(at..at.saturating_add(bytes.len())) {
        place.copy_from_slice(bytes);
    }
}
