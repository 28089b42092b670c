//! The layout of a file's rows, from the names of its columns.

use std::fmt;

use super::columns::ColumnMap;
use super::rows::{self, shown};
use super::{llava, vlmevalkit};

/// A layout of rows.
#[derive(Clone, Debug)]
pub(super) enum Layout {
    /// A list of messages in this column.
    Conversations(&'static str),
    PromptCompletion,
    Alpaca,
    Vlmevalkit,
    /// Columns by a map; given by the user, or by the names of the columns.
    Columns(Box<ColumnMap>),
}

/// Fields that rows with conversations may have.
const CONVERSATION_FIELDS: &[&str] = &[
    "id",
    "image",
    "images",
    "system",
    "dataset",
    "question",
    "options",
    "answer_type",
    "answer",
    "answers",
    "rationale",
    "facts",
];

/// The line after the error of an unknown layout.
pub(super) const RECOGNIZED: &str = "layouts are recognized by the columns `conversations` (LLaVA, ShareGPT), `messages` (OpenAI, TRL, LLaMA-Factory, \
     ms-swift), `prompt` and `completion` (TRL), `instruction` and `output` (Alpaca), `index`, `question` and `answer` \
     (VLMEvalKit), or `question` and `answer`";

/// Names that the columns of other data sets have, by the key of `columns`.
const SYNONYMS: &[(&str, &[&str])] = &[
    ("question", &["question", "query", "prompt", "problem", "instruction", "input", "text", "user"]),
    (
        "answer",
        &[
            "answer",
            "label",
            "answers",
            "output",
            "response",
            "completion",
            "solution",
            "target",
            "assistant",
            "a",
            "gt_answer",
            "answerKey",
            "multiple_choice_answer",
            "caption",
        ],
    ),
    ("options", &["options", "choices", "candidates"]),
    ("image", &["image", "images", "img", "picture", "file_name", "image_path", "image_id", "decoded_image"]),
    ("id", &["id", "qid", "question_id", "questionId", "uid", "idx", "pid", "index"]),
];

impl Layout {
    /// Determines the layout, or says what the file looks like and what to write.
    pub(super) fn detect(columns: &[String], map: Option<&ColumnMap>) -> Result<Layout, String> {
        if let Some(map) = map {
            map.check_columns(columns)?;
            return Ok(Layout::Columns(Box::new(map.clone())));
        }
        let has = |name: &str| columns.iter().any(|column| column == name);
        if has("conversations") || columns.is_empty() {
            return Ok(Layout::Conversations("conversations"));
        }
        if has("messages") {
            return Ok(Layout::Conversations("messages"));
        }
        if has("prompt") && has("completion") {
            return Ok(Layout::PromptCompletion);
        }
        if has("instruction") && has("output") {
            return Ok(Layout::Alpaca);
        }
        if has("index") && has("question") && has("answer") {
            return Ok(Layout::Vlmevalkit);
        }
        if has("question") && (has("answer") || has("answers")) {
            let map = ColumnMap::of_names(columns);
            let unread = |column: &&String| !map.reads(column) && rows::is_ignored_media(column, map.image.is_some());
            return match columns.iter().find(unread) {
                Some(column) => Err(format!(
                    "the column `{column}` is not read: write which columns to read, as in `columns = {{ {} }}`",
                    suggested(columns)
                )),
                None => Ok(Layout::Columns(Box::new(map))),
            };
        }
        Err(unknown(columns))
    }

    /// Whether rows in this layout are read from a column. A column that names media files is read too, because an image
    /// that is not used is an error.
    pub(super) fn reads(&self, column: &str) -> bool {
        let conversation =
            |names: &[&str]| names.contains(&column) || CONVERSATION_FIELDS.contains(&column) || rows::is_media(column);
        match self {
            Layout::Conversations(_) => conversation(&["conversations", "messages"]),
            Layout::PromptCompletion => conversation(&["prompt", "completion"]),
            Layout::Alpaca => {
                ["instruction", "input", "output", "history", "system", "id", "dataset"].contains(&column)
                    || rows::is_media(column)
            }
            Layout::Vlmevalkit => {
                ["index", "image", "image_path", "question", "hint", "answer"].contains(&column)
                    || vlmevalkit::is_option(column)
            }
            Layout::Columns(map) => map.reads(column),
        }
    }

    /// The keys that a row must have, for errors.
    pub(super) fn keys(&self) -> &'static str {
        match self {
            Layout::Conversations("messages") => "`messages`",
            Layout::Conversations(_) => "`conversations`",
            Layout::PromptCompletion => "`prompt` and `completion`",
            Layout::Alpaca => "`instruction` and `output`",
            Layout::Vlmevalkit => "`index`, `question` and `answer`",
            Layout::Columns(_) => "its columns",
        }
    }

    /// A line that follows the errors of a file.
    pub(super) fn example(&self) -> Option<&'static str> {
        match self {
            Layout::Conversations("conversations") => Some(llava::EXAMPLE),
            Layout::Conversations(_) => Some(
                r#"a row: {"messages": [{"role": "user", "content": "<image>How many bars?"}, {"role": "assistant", "content": "4"}], "images": ["charts/7.png"]}"#,
            ),
            _ => None,
        }
    }
}

impl fmt::Display for Layout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Layout::Conversations(key) => key,
            Layout::PromptCompletion => "prompt and completion",
            Layout::Alpaca => "Alpaca's layout",
            Layout::Vlmevalkit => "VLMEvalKit's layout",
            Layout::Columns(_) => "columns",
        })
    }
}

/// What a file of an unknown layout looks like, and what to write.
fn unknown(columns: &[String]) -> String {
    let has = |name: &str| columns.iter().any(|column| column == name);
    if has("chosen") && has("rejected") {
        return format!(
            "the rows are preference pairs (columns {}): a stage of kind `pairs` reads them",
            shown(columns)
        );
    }
    let lists = !columns.is_empty() && columns.iter().enumerate().all(|(at, column)| *column == at.to_string());
    let what = if lists {
        format!("the rows are lists of {} values", columns.len())
    } else {
        format!("the layout of the columns {} is unknown", shown(columns))
    };
    let layouts = ["conversations", "messages", "completion", "instruction"];
    let near = layouts.iter().find_map(|name| {
        let near = columns.iter().find(|column| strsim::levenshtein(&column.to_lowercase(), name) <= 2)?;
        Some(format!("; `{near}` resembles `{name}`"))
    });
    let suggestion = if lists { "question = \"0\", answer = \"1\"".to_string() } else { suggested(columns) };
    format!("{what}{}: write which columns to read, as in `columns = {{ {suggestion} }}`", near.unwrap_or_default())
}

/// A map of the columns whose names resemble those of other data sets.
fn suggested(columns: &[String]) -> String {
    let mut used: Vec<&str> = Vec::new();
    let mut parts = Vec::new();
    for (key, names) in SYNONYMS {
        let same = |column: &str, name: &str| {
            let most = if name.len() < 5 { 0 } else { 2 };
            strsim::levenshtein(&column.to_lowercase(), &name.to_lowercase()) <= most
        };
        let found = names.iter().find_map(|name| {
            columns.iter().map(String::as_str).find(|column| same(column, name) && !used.contains(column))
        });
        match found {
            Some(column) => {
                used.push(column);
                parts.push(format!("{key} = \"{column}\""));
            }
            None if ["question", "answer"].contains(key) => parts.push(format!("{key} = \"…\"")),
            None => {}
        }
    }
    parts.join(", ")
}
