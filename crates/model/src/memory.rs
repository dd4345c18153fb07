//! Whether there is memory. A failed allocation ends the whole process, so work whose size comes from outside asks first.

/// Whether `bytes` bytes can be allocated now. They are not touched and given back at once: that costs a microsecond, and what
/// follows can only fail if somebody else takes them meanwhile.
#[must_use]
pub fn can_allocate(bytes: usize) -> bool {
    let mut probe = Vec::<u8>::new();
    let granted = probe.try_reserve_exact(bytes).is_ok();
    // Or the compiler would know that nobody uses it, and leave it out.
    std::hint::black_box(&mut probe);
    granted
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_little_and_not_everything() {
        assert!(can_allocate(0) && can_allocate(1 << 20));
        assert!(!can_allocate(1 << 60) && !can_allocate(usize::MAX));
    }
}
