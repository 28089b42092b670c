//! Loading hand-written hostile texts neither panics nor hangs.

use std::fmt::Write;

use super::support::{errors, load};

#[test]
fn hostile_texts_are_refused() {
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
        assert!(!errors(&text).is_empty());
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
