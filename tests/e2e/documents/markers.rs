//! Places of a Markdown document that a command writes. All markers are comments, which a renderer hides:
//!
//! ```text
//! <!--=reasoner/main/DPO - 4, CoT prompt-->+10.8 [7.8, 13.8]<!--/-->     a value of a saved result
//! <!--claim: reasoner/main/DPO - 4, CoT prompt = shown-->                the verdict that the next words rest on
//! <!--paper-->+5.6<!--/-->                                               a number that the paper published
//! <!--size-->0.28<!--/-->                                                a number of the experiment file
//! <!-- results: reasoner/main -->                                        a whole table, up to the line `<!-- end -->`
//! ```

use super::values::Values;

/// One part of a line.
#[derive(Debug, PartialEq)]
enum Piece<'a> {
    Text(&'a str),
    /// A path, and the text that it had.
    Value(&'a str),
    /// A word of [`GIVEN`], and a number that no result holds.
    Given(&'a str, &'a str),
    /// A path of a contrast, and its verdict.
    Claim(&'a str, &'a str),
    /// A path of a table.
    Table(&'a str),
    /// A line of the table that was there.
    Old,
    TableEnd,
}

/// Markers of numbers that stay as they are.
const GIVEN: [&str; 2] = ["paper", "size"];

const END: &str = "<!--/-->";

/// A document as lines of pieces.
pub(super) struct Document<'a> {
    name: &'a str,
    lines: Vec<Vec<Piece<'a>>>,
}

impl<'a> Document<'a> {
    /// Errors: each wrong marker, with file and line.
    pub(super) fn parse(name: &'a str, text: &'a str) -> Result<Document<'a>, Vec<String>> {
        let (mut lines, mut errors) = (Vec::new(), Vec::new());
        let (mut in_code, mut table) = (false, None);
        for (number, line) in (1..).zip(text.lines()) {
            in_code ^= line.trim_start().starts_with("```");
            let word = line.strip_prefix("<!--").and_then(|rest| rest.strip_suffix("-->")).map_or("", str::trim);
            let pieces = match (word.strip_prefix("results:"), table) {
                _ if in_code => Ok(vec![Piece::Text(line)]),
                (Some(path), None) => {
                    table = Some(number);
                    Ok(vec![Piece::Table(path.trim())])
                }
                (None, Some(_)) if word == "end" => {
                    table = None;
                    Ok(vec![Piece::TableEnd])
                }
                (Some(_), Some(start)) => Err(format!("the table of line {start} has no `<!-- end -->`")),
                (None, Some(_)) => Ok(vec![Piece::Old]),
                (None, None) => parse_line(line),
            };
            lines.push(pieces.unwrap_or_else(|error| {
                errors.push(format!("{name}:{number}: {error}"));
                Vec::new()
            }));
        }
        if let Some(start) = table {
            errors.push(format!("{name}:{start}: the table has no `<!-- end -->`"));
        }
        if errors.is_empty() { Ok(Document { name, lines }) } else { Err(errors) }
    }

    /// The document with today's values. Errors: unknown names and wrong claims, with file and line.
    pub(super) fn render(&self, values: &Values) -> Result<String, Vec<String>> {
        let (mut text, mut errors) = (String::new(), Vec::new());
        for (number, line) in (1..).zip(&self.lines) {
            for piece in line {
                match render_piece(piece, values) {
                    Ok(part) => text.push_str(&part),
                    Err(error) => errors.push(format!("{}:{number}: {error}", self.name)),
                }
            }
            if !matches!(line[..], [Piece::Old]) {
                text.push('\n');
            }
        }
        if errors.is_empty() { Ok(text) } else { Err(errors) }
    }

    /// The lines of text without what markers hold, with their numbers.
    pub(super) fn unmarked(&self) -> impl Iterator<Item = (usize, String)> {
        let text = |line: &Vec<Piece>| {
            let parts = line.iter().filter_map(|piece| if let Piece::Text(text) = piece { Some(*text) } else { None });
            parts.collect()
        };
        (1..).zip(self.lines.iter().map(text))
    }
}

fn parse_line(line: &str) -> Result<Vec<Piece<'_>>, String> {
    let mut pieces = Vec::new();
    let mut rest = line;
    while let Some((before, after)) = rest.split_once("<!--") {
        pieces.push(Piece::Text(before));
        let (word, after) = after.split_once("-->").ok_or("a comment has no end")?;
        if let Some(claim) = word.strip_prefix("claim:") {
            let claim = claim.rsplit_once(" = ").ok_or("a claim is `<!--claim: PATH = VERDICT-->`")?;
            pieces.push(Piece::Claim(claim.0.trim(), claim.1.trim()));
            rest = after;
            continue;
        }
        let path = word.strip_prefix('=');
        if path.is_none() && !GIVEN.contains(&word) {
            return Err(format!(
                "`<!--{word}-->` is not a marker: markers are `=PATH`, `claim:`, `paper`, `size`, `results:`"
            ));
        }
        let (inside, after) = after.split_once(END).ok_or_else(|| format!("`<!--{word}-->` has no `{END}`"))?;
        if inside.contains("<!--") {
            return Err(format!("`<!--{word}-->` has no `{END}` before the next marker"));
        }
        pieces.push(match path {
            Some(path) => Piece::Value(path.trim()),
            None => Piece::Given(word, inside),
        });
        rest = after;
    }
    pieces.push(Piece::Text(rest));
    Ok(pieces)
}

fn render_piece(piece: &Piece, values: &Values) -> Result<String, String> {
    match piece {
        Piece::Text(text) => Ok((*text).to_string()),
        Piece::Value(path) => Ok(format!("<!--={path}-->{}{END}", values.text(path)?)),
        Piece::Given(word, text) => Ok(format!("<!--{word}-->{text}{END}")),
        Piece::Claim(path, verdict) => {
            let found = values.text(&format!("{path}/verdict"))?;
            if found != *verdict {
                return Err(format!("the text says `{verdict}` of `{path}`, but the verdict is `{found}`"));
            }
            Ok(format!("<!--claim: {path} = {verdict}-->"))
        }
        // An empty line, because a comment begins a block of HTML that ends there.
        Piece::Table(path) => Ok(format!("<!-- results: {path} -->\n\n{}", values.table(path)?)),
        Piece::Old => Ok(String::new()),
        Piece::TableEnd => Ok("<!-- end -->".to_string()),
    }
}
