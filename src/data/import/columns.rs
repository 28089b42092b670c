//! The map of a user from columns to the parts of a question: `columns = { question = "query", answer = "label" }`.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::cells::{Cell, Part, parts};
use super::example::{Example, Turns};
use super::images::{MemberNames, RowImages};
use super::option_lists::{self, OptionList};
use super::rows;

/// Which columns hold what.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ColumnMap {
    /// The question, or the user's turn of a training row.
    pub question: Cell,
    /// The gold answer, a list of them, or the response of a training row.
    pub answer: Cells,
    /// The options: a list, or the columns of the options A, B, ...
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub options: Option<Cells>,
    /// The images.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<Cells>,
    /// The id. Without it, the id is derived from the content.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<Cell>,
    /// The data set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dataset: Option<Cell>,
    /// The reasoning text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rationale: Option<Cell>,
}

/// One or several cells.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(
    untagged,
    expecting = "expected a column, a text with columns in braces, { text = \"...\" }, or a list of them"
)]
pub enum Cells {
    One(Cell),
    Many(Vec<Cell>),
}

impl Default for Cells {
    fn default() -> Cells {
        Cells::One(Cell::default())
    }
}

impl ColumnMap {
    /// The map for columns that have the names of its keys.
    pub(super) fn of_names(columns: &[String]) -> ColumnMap {
        let cell = |names: &[&str]| {
            let name = names.iter().find(|name| columns.iter().any(|column| column == *name))?;
            Some(Cell::Column((*name).to_string()))
        };
        ColumnMap {
            question: cell(&["question"]).unwrap_or_default(),
            answer: cell(&["answer", "answers"]).map(Cells::One).unwrap_or_default(),
            options: cell(&["options", "choices"]).map(Cells::One),
            image: cell(&["image", "images"]).map(Cells::One),
            id: cell(&["id"]),
            dataset: cell(&["dataset"]),
            rationale: cell(&["rationale"]),
        }
    }

    /// All cells with their keys.
    fn cells(&self) -> Vec<(&'static str, &Cell)> {
        let ColumnMap { question, answer, options, image, id, dataset, rationale } = self;
        let mut all = vec![("question", question)];
        for (key, cells) in [("answer", Some(answer)), ("options", options.as_ref()), ("image", image.as_ref())] {
            match cells {
                Some(Cells::One(cell)) => all.push((key, cell)),
                Some(Cells::Many(cells)) => all.extend(cells.iter().map(|cell| (key, cell))),
                None => {}
            }
        }
        let single = [("id", id), ("dataset", dataset), ("rationale", rationale)];
        all.extend(single.into_iter().filter_map(|(key, cell)| Some((key, cell.as_ref()?))));
        all
    }

    /// The errors of the map itself, each with its key.
    pub fn check(&self) -> Vec<(&'static str, String)> {
        let mut errors = Vec::new();
        for (key, cells) in
            [("answer", Some(&self.answer)), ("options", self.options.as_ref()), ("image", self.image.as_ref())]
        {
            if matches!(cells, Some(Cells::Many(cells)) if cells.is_empty()) {
                errors.push((key, "the list of columns is empty".to_string()));
            }
        }
        for (key, cell) in self.cells() {
            match cell {
                Cell::Column(text) if text.is_empty() => {
                    errors.push((key, "the name of a column is empty".to_string()));
                }
                Cell::Column(text) => errors.extend(parts(text).err().map(|what| (key, what))),
                Cell::Text(constant) if constant.text.trim().is_empty() => {
                    errors.push((key, "the text is empty".to_string()));
                }
                Cell::Text(_) => {}
            }
        }
        errors
    }

    /// The top-level columns that the map reads.
    pub(super) fn reads(&self, column: &str) -> bool {
        self.names().iter().any(|(_, name)| *name == column || name.split('.').next() == Some(column))
    }

    /// Keys and names of columns.
    fn names(&self) -> Vec<(&'static str, &str)> {
        let mut names = Vec::new();
        for (key, cell) in self.cells() {
            let Cell::Column(text) = cell else { continue };
            let parts = parts(text).unwrap_or_default();
            names.extend(parts.into_iter().filter_map(|part| match part {
                Part::Column(name) => Some((key, name)),
                Part::Text(_) => None,
            }));
        }
        names
    }

    /// The error for a column that the file does not have.
    pub(super) fn check_columns(&self, columns: &[String]) -> Result<(), String> {
        for (key, name) in self.names() {
            let first = name.split('.').next().unwrap_or_default();
            if columns.iter().any(|column| column == name || column == first) {
                continue;
            }
            let nearest = columns.iter().min_by_key(|column| strsim::levenshtein(column, name));
            let near = nearest.filter(|column| strsim::levenshtein(column, name) <= 1 + name.len() / 3);
            let help = near.map(|column| format!("; did you mean `{column}`?")).unwrap_or_default();
            return Err(format!(
                "`columns.{key}`: the file has no column `{name}`; its columns are {}{help}",
                rows::shown(columns)
            ));
        }
        Ok(())
    }

    /// Reads a row.
    pub(super) fn read(&self, value: Result<Value, String>, images: &mut RowImages) -> Result<Example, Vec<String>> {
        let row = match value.map_err(|what| vec![what])? {
            Value::Object(fields) => fields,
            Value::Array(values) => values.into_iter().enumerate().map(|(at, value)| (at.to_string(), value)).collect(),
            _ => return Err(vec!["a row must be an object or a list".to_string()]),
        };
        let mut wrong = Vec::new();
        let question = self.question.text(&row, "question").and_then(|text| {
            text.filter(|text| !text.trim().is_empty())
                .ok_or_else(|| format!("{} has no value", self.question.describe("question")))
        });
        let mut options = OptionList::default();
        match self.options(&row) {
            Ok(list) => options = list,
            Err(what) => wrong.push(what),
        }
        let answers = self.answers(&row).unwrap_or_else(|what| {
            wrong.push(what);
            Vec::new()
        });
        let images = self.images(&row, images).unwrap_or_else(|what| {
            wrong.push(what);
            Vec::new()
        });
        let mut text = |cell: &Option<Cell>, key: &str| match cell.as_ref()?.text(&row, key) {
            Ok(text) => text,
            Err(what) => {
                wrong.push(what);
                None
            }
        };
        let (id, dataset) = (text(&self.id, "id"), text(&self.dataset, "dataset"));
        let rationale = text(&self.rationale, "rationale");
        let response = answers.first().cloned().unwrap_or_default();
        Ok(Example {
            id,
            dataset,
            turns: question.map(|question| Turns { system: None, turns: vec![(question, Some(response))] }),
            images,
            member_names: MemberNames::Content,
            question: None,
            options,
            answer_type: None,
            answer: None,
            answers,
            rationale,
            facts: Vec::new(),
            wrong,
        })
    }

    fn options(&self, row: &Map<String, Value>) -> Result<OptionList, String> {
        match &self.options {
            None => Ok(OptionList::default()),
            Some(Cells::One(cell)) => match cell.value(row, "options")? {
                Some(value) => OptionList::read(&value, &cell.describe("options").replace('`', "")),
                None => Ok(OptionList::default()),
            },
            Some(Cells::Many(cells)) => {
                let mut values = Vec::new();
                for cell in cells {
                    values.push(cell.value(row, "options")?.unwrap_or(Value::Null));
                }
                let letters: Vec<String> =
                    (0..values.len()).map(|at| char::from(b'A' + at.min(25) as u8).to_string()).collect();
                option_lists::by_letter(letters.iter().map(String::as_str).zip(&values), "options")
            }
        }
    }

    /// The answers: of a list its elements.
    fn answers(&self, row: &Map<String, Value>) -> Result<Vec<String>, String> {
        match &self.answer {
            Cells::One(cell) => match cell.value(row, "answer")? {
                Some(Value::Array(values)) => option_lists::texts(&values, &cell.name("answer")),
                Some(value) => Ok(vec![option_lists::text(&value, &cell.name("answer"))?]),
                None => Err(format!("{} has no value", cell.describe("answer"))),
            },
            Cells::Many(cells) => {
                let texts = cells.iter().filter_map(|cell| cell.text(row, "answer").transpose());
                texts.collect()
            }
        }
    }

    fn images(&self, row: &Map<String, Value>, images: &mut RowImages) -> Result<Vec<super::images::RowImage>, String> {
        let cells = match &self.image {
            None => return Ok(Vec::new()),
            Some(Cells::One(cell)) => std::slice::from_ref(cell),
            Some(Cells::Many(cells)) => cells,
        };
        let mut found = Vec::new();
        for cell in cells {
            if let Some(value) = cell.value(row, "image")? {
                found.extend(images.read(&value, &cell.name("image"))?);
            }
        }
        Ok(found)
    }
}
