//! Loading never panics: damaged texts load or are refused with messages that can be shown.

use rand::Rng;
use std::fmt::Write;

use super::expansion::STUDY;
use super::toy::{Folder, load};
use crate::base::Seed;

const PIECES: &[&str] = &[
    "\"", "[", "]", "{", "}", "=", ".", ",", "\n", "${", "$${", "}", "@", ":", "é", "\u{feff}", "'''", "\"\"\"", "#",
    "-", "1e999", "0x", "[[", "]]", "remove", "kind", "stage", "\\u", "\\", "\t", "\r", "seed", "nan", "=[", "={",
];

#[test]
fn damaged_texts_never_panic() {
    let whole = format!(
        "{STUDY}\n[vars]\nx = 1\ny = \"${{x}}\"\n[report.main]\nrows = [\"model\"]\nbaseline = \"model=sft,mix=direct\"\n"
    );
    let folder = Folder::new();
    let mut draws = Seed(7).stream("fuzz");
    let mut below = |bound: usize| (draws.next_u64() % bound as u64) as usize;
    let try_bytes = |bytes: &[u8]| {
        folder.write("a.toml", bytes);
        if let Err(failure) = folder.load("a.toml", &[]) {
            assert!(!failure.render(true).is_empty());
        }
    };
    for cut in (0..whole.len()).step_by(7) {
        try_bytes(&whole.as_bytes()[..cut]);
    }
    for _ in 0..600 {
        let mut bytes = whole.clone().into_bytes();
        for _ in 0..=below(4) {
            let (start, end) = (below(bytes.len()), below(bytes.len()));
            match below(4) {
                0 => bytes[start] = below(256) as u8,
                1 => drop(bytes.splice(start..start, PIECES[below(PIECES.len())].bytes()).collect::<Vec<_>>()),
                2 => drop(bytes.drain(start..(start + end % 20).min(bytes.len()))),
                _ => {
                    let copied = bytes[start..(start + end % 40).min(bytes.len())].to_vec();
                    drop(bytes.splice(end..end, copied).collect::<Vec<_>>());
                }
            }
        }
        try_bytes(&bytes);
    }
}

#[test]
fn hostile_texts_are_refused() {
    let folder = Folder::new();
    let deep = "a.".repeat(20_000);
    let lists = "[".repeat(20_000);
    let nested = format!("{}1{}", "[".repeat(60), "]".repeat(60));
    let chain: String = (0..2000).fold(String::new(), |mut text, index| {
        writeln!(text, "v{index} = [\"${{v{}}}\"]", index + 1).unwrap();
        text
    });
    for text in [
        format!("{deep}b = 1"),
        format!("[{deep}b]"),
        format!("x = {lists}"),
        format!("x = {nested}"),
        format!("[vars]\n{chain}"),
    ] {
        folder.write("a.toml", text);
        assert!(!folder.errors("a.toml", &[]).is_empty());
    }
}

#[test]
fn long_chains_and_many_stages_load() {
    let mut text = "[stage.base]\nkind = \"base\"\n[stage.format]\nkind = \"mix\"\nsources = {}\n".to_string();
    for index in 0..10_000 {
        let above = if index == 0 { "base".to_string() } else { format!("s{}", index - 1) };
        writeln!(text, "[stage.s{index}]\nkind = \"sft\"\nmodel = \"{above}\"\ndata = \"format\"\nlr = {index}")
            .unwrap();
    }
    let (_, expansion) = load(&text);
    assert_eq!(expansion.instances.len(), 10_002);
}
