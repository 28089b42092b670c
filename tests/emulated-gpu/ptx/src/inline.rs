//! Replaces calls of device functions by the bodies of the functions.

use std::collections::HashMap;

use crate::parse::{Item, Module};
use crate::statement::{Result, Statement, split_list};

/// Calls within calls. A function that calls itself exceeds any number.
const DEPTH: usize = 16;

/// A device function that nvcc has not inlined.
#[derive(Debug, Default)]
pub struct DeviceFunction {
    /// The names of the results, then those of the arguments.
    pub params: Vec<String>,
    pub body: Vec<Item>,
}

/// A body without calls. A call of an unknown function stays, and is an error of the translation.
pub(crate) fn inline(module: &Module, body: &[Item]) -> Result<Vec<Item>> {
    let mut inliner = Inliner { module, calls: 0, result: Vec::new() };
    inliner.add(body, &HashMap::new(), 0)?;
    Ok(inliner.result)
}

struct Inliner<'a> {
    module: &'a Module,
    calls: usize,
    result: Vec<Item>,
}

/// The label behind the body of a function.
const RETURN: &str = "return";

impl<'a> Inliner<'a> {
    fn add(&mut self, body: &[Item], names: &HashMap<String, String>, depth: usize) -> Result<()> {
        for item in body {
            let text = match item {
                Item::Statement(text) => rename(text, names),
                Item::Label(label) => {
                    self.result.push(Item::Label(rename(label, names)));
                    continue;
                }
                Item::Open | Item::Close => {
                    self.result.push(item.clone());
                    continue;
                }
            };
            let statement = Statement::parse(&text);
            if let Some((function, actual)) = self.call(&statement) {
                if depth == DEPTH {
                    return Err(format!("`{text}`: the calls are too deep"));
                }
                self.add_call(function, actual, depth)?;
            } else if depth > 0 && statement.name() == "ret" {
                let guard = text.strip_suffix(&statement.code).unwrap_or("");
                self.result.push(Item::Statement(format!("{guard}bra {}", names[RETURN])));
            } else {
                self.result.push(Item::Statement(text));
            }
        }
        Ok(())
    }

    /// The function and the parameters of a call.
    fn call(&self, statement: &Statement) -> Option<(&'a DeviceFunction, Vec<String>)> {
        if statement.name() != "call" || statement.guard.is_some() {
            return None;
        }
        let function = statement.operands.iter().find_map(|operand| self.module.functions.get(operand))?;
        let lists = statement.operands.iter().filter_map(|operand| operand.strip_prefix('(')?.strip_suffix(')'));
        let actual: Vec<String> = lists.flat_map(split_list).collect();
        (actual.len() == function.params.len()).then_some((function, actual))
    }

    fn add_call(&mut self, function: &DeviceFunction, actual: Vec<String>, depth: usize) -> Result<()> {
        self.calls += 1;
        let call = self.calls;
        let own_name = |label: &str| format!("{label}_call_{call}");
        let mut names: HashMap<String, String> = function.params.iter().cloned().zip(actual).collect();
        for item in &function.body {
            if let Item::Label(label) = item {
                names.insert(label.clone(), own_name(label));
            }
        }
        names.insert(RETURN.to_string(), own_name(RETURN));
        // Its registers are visible only in its body.
        self.result.push(Item::Open);
        self.add(&function.body, &names, depth + 1)?;
        self.result.push(Item::Close);
        self.result.push(Item::Label(own_name(RETURN)));
        Ok(())
    }
}

/// Replaces names.
fn rename(text: &str, names: &HashMap<String, String>) -> String {
    if names.is_empty() {
        return text.to_string();
    }
    let is_part = |c: char| c.is_alphanumeric() || "_$%.".contains(c);
    let mut result = String::new();
    let mut rest = text;
    while !rest.is_empty() {
        let end = rest.find(|c| !is_part(c)).unwrap_or(rest.len());
        let (word, after) = rest.split_at(end);
        result += names.get(word).map_or(word, String::as_str);
        let next = after.find(is_part).unwrap_or(after.len());
        result += &after[..next];
        rest = &after[next..];
    }
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_whole_names_are_replaced() {
        let names = HashMap::from([("p_1".to_string(), "param0".to_string())]);
        assert_eq!(rename("ld.param.f64 %p_1, [p_1+8], p_10", &names), "ld.param.f64 %p_1, [param0+8], p_10");
    }
}
