//! Pixel values of checkpoints' image processors against those of Hugging Face (`tests/golden/make_pixels.py`).

use serde::Deserialize;

use crate::images::ImageProcessor;
use crate::tests::support::golden;
use ablate_core::base::files;

#[derive(Deserialize)]
struct Case {
    processor: String,
    image: String,
    tiles: usize,
    offset: usize,
}

#[test]
fn pixel_values_equal_the_pillow_backend() {
    let cases: Vec<Case> = files::read_json(&golden("pixels").join("expected.json")).unwrap();
    let bytes = files::read_bytes(&golden("pixels").join("expected.f32")).unwrap();
    let expected: Vec<f32> = bytes.as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
    let (mut seen, mut different) = (0, Vec::new());
    for Case { processor: kind, image, tiles, offset } in cases {
        let processor = ImageProcessor::read(&golden("pixels").join(&kind)).unwrap();
        let decoded = processor.decode(&files::read_bytes(&golden("pixels").join(&image)).unwrap()).unwrap();
        let shape = processor.shape(decoded.width(), decoded.height()).unwrap();
        assert_eq!(shape.tiles as usize, tiles, "{kind} {image}");
        let values = processor.process(&decoded).unwrap();
        assert_eq!(values.len(), tiles * (shape.tile.0 * shape.tile.1) as usize * 3, "{kind} {image}");
        let expected = &expected[offset..][..values.len()];
        seen += values.len();
        let most = values.iter().zip(expected).map(|(one, other)| (one - other).abs()).fold(0.0, f32::max);
        // JPEG decoders differ by two levels: 2 / 255 over the smallest standard deviation of CLIP.
        let two = if kind == "clip_raw" { 7.7 } else { 0.0305 };
        let allowed = if image.ends_with("jpg") { two } else { 0.0 };
        if most > allowed {
            different.push(format!("{kind} {image}: {most}"));
        }
    }
    assert!(different.is_empty(), "\n{}\n", different.join("\n"));
    assert_eq!(seen, expected.len());
}
