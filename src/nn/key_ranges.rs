//! Which tokens of a row each of its tokens attends to, where it is more or less than those up to itself.
//!
//! The tokens of an image attend to the whole image (Gemma 3), and a window hides what lies too far back:
//!
//! ```text
//! token      a b I I I c        window of 2:   a b I I I c
//! end        1 2 5 5 5 6        start          0 0 1 2 3 4
//! ```

use std::ops::Range;

use super::architecture::Architecture;
use super::kernels::attention::KeyRanges;

/// Appends the end of the keys of every token of a sequence: behind itself, or behind its image. Nothing for a model without attention
/// within images.
pub(crate) fn push_ends(model: &Architecture, tokens: &[u32], ends: &mut Vec<u32>) {
    let Some(vision) = model.vision.as_ref().filter(|_| model.decoder.bidirectional_images) else { return };
    let mut end = 0;
    // Image tokens that follow each other are one image.
    for run in tokens.chunk_by(|one, next| one == next && *one == vision.image_token) {
        end += run.len() as u32;
        ends.extend(run.iter().map(|_| end));
    }
}

/// The keys of every token of `rows`. `ends` are from [`push_ends`], or empty. None if every token attends to those up to itself.
pub(crate) fn key_ranges(rows: &[Range<usize>], ends: &[u32], window: Option<usize>) -> Option<KeyRanges> {
    let window = window.filter(|&window| rows.iter().any(|row| row.len() > window));
    if ends.is_empty() && window.is_none() {
        return None;
    }
    let range = |row: &Range<usize>, at: usize| {
        let end = ends.get(row.start + at).map_or(at + 1, |&end| end as usize);
        let start = window.map_or(0, |window| (at + 1).saturating_sub(window));
        start as u32..end as u32
    };
    Some(rows.iter().flat_map(|row| (0..row.len()).map(move |at| range(row, at))).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::ModelConfig;

    #[test]
    fn tokens_of_an_image_see_all_of_it_within_the_window() {
        let mut model = Architecture::from_config(&ModelConfig::default(), 10, 1);
        let tokens = [5, 6, 1, 1, 1, 7];
        let mut ends = Vec::new();
        push_ends(&model, &tokens, &mut ends);
        assert!(ends.is_empty());
        model.decoder.bidirectional_images = true;
        push_ends(&model, &tokens, &mut ends);
        push_ends(&model, &[1, 5, 1], &mut ends);
        assert_eq!(ends, [1, 2, 5, 5, 5, 6, 1, 2, 3]);
        let rows = [0..6, 6..9];
        let ranges = |ends: &[u32], window| key_ranges(&rows, ends, window).map(|ranges| ranges.to_vec());
        assert_eq!(ranges(&ends, None).unwrap()[..6], [0..1, 0..2, 0..5, 0..5, 0..5, 0..6]);
        assert_eq!(ranges(&ends, Some(2)).unwrap()[..6], [0..1, 0..2, 1..5, 2..5, 3..5, 4..6]);
        assert_eq!(ranges(&[], Some(2)).unwrap()[6..], [0..1, 0..2, 1..3]);
        // A window as long as the longest row hides nothing.
        assert_eq!(ranges(&[], Some(6)), None);
    }
}
