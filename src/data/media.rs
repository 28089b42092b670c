//! Keys of rows that name a picture, a video or a sound. Knows no row.

/// Words for what a row may show or play.
const MEDIA: [&str; 13] = [
    "audio", "audios", "image", "images", "img", "imgs", "media", "photo", "photos", "picture", "pictures", "video",
    "videos",
];

/// Whether a key other than `image` names what a row shows, so that the row says less without it. `images`, `image_2`
/// and `video` always do, `image_path` and `video_id` where there is no `image`.
pub(super) fn is_unread(key: &str, has_image: bool) -> bool {
    let words = words(key);
    let named = words.iter().filter(|word| MEDIA.contains(&word.as_str())).count();
    key != "image" && named > 0 && (!has_image || named == words.len())
}

/// The words of a key in lower case; numbers are none.
fn words(key: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let mut before = ' ';
    for letter in key.chars() {
        if !letter.is_alphabetic() || before.is_lowercase() && letter.is_uppercase() {
            words.push(String::new());
        }
        if letter.is_alphabetic() {
            words.last_mut().expect("there is one").extend(letter.to_lowercase());
        }
        before = letter;
    }
    words.retain(|word| !word.is_empty());
    words
}
