//! How TCP may cut a stream: byte by byte, into a few pieces, and anywhere.

use fullduplex::driver::sim::Dice;

/// Ways to cut these bytes, as the lengths of the pieces. The places come from the bytes
/// themselves: an input is nothing but what is said, and is always the same run.
pub fn ways(bytes: &[u8]) -> [Vec<usize>; 4] {
    let len = bytes.len();
    let mut dice = Dice::new(hash(bytes));
    let one = 1 + dice.below(len);
    let few = (0..4).map(|_| 1 + dice.below(len)).collect();
    let uneven = (0..64).map(|_| dice.unevenly_up_to(len.max(1))).collect();
    let step = if len <= BYTEWISE_BYTES_MAX { 1 } else { 997 };
    [vec![one], few, uneven, vec![step; len / step]]
}

/// Cuts bytes into pieces of these lengths, and a last one.
pub fn pieces<'b>(mut bytes: &'b [u8], way: &'b [usize]) -> impl Iterator<Item = &'b [u8]> {
    let mut lens = way.iter();
    std::iter::from_fn(move || {
        let len = lens.next().copied().unwrap_or(usize::MAX).min(bytes.len());
        let (piece, rest) = bytes.split_at(len);
        bytes = rest;
        (!piece.is_empty()).then_some(piece)
    })
}

/// FNV-1a.
pub fn hash(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .fold(0xCBF2_9CE4_8422_2325, |hash, &byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01B3))
}

/// A longer stream byte by byte would take the time of many short ones.
const BYTEWISE_BYTES_MAX: usize = 8 * 1024;
