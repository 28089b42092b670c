//! Converts the cells of Arrow arrays to JSON values.

use anyhow::Result;
use arrow_array::cast::AsArray;
use arrow_array::types::{
    ArrowDictionaryKeyType, Float32Type, Float64Type, Int8Type, Int16Type, Int32Type, Int64Type, UInt8Type, UInt16Type,
    UInt32Type, UInt64Type,
};
use arrow_array::{Array, ArrayRef};
use arrow_schema::DataType;
use serde_json::{Map, Number, Value};

use super::StoreBytes;
use super::class_labels::ClassLabels;

/// Why a cell has no value: an error of the row, or of the machine.
#[derive(Debug)]
pub(super) enum CellError {
    Row(String),
    Io(anyhow::Error),
}

/// Checks that cells of this type can be read. The error names the column and its type.
pub(super) fn check_type(column: &str, data_type: &DataType) -> Result<(), String> {
    match data_type {
        DataType::Null
        | DataType::Boolean
        | DataType::Int8
        | DataType::Int16
        | DataType::Int32
        | DataType::Int64
        | DataType::UInt8
        | DataType::UInt16
        | DataType::UInt32
        | DataType::UInt64
        | DataType::Float32
        | DataType::Float64
        | DataType::Utf8
        | DataType::LargeUtf8
        | DataType::Utf8View
        | DataType::Binary
        | DataType::LargeBinary
        | DataType::BinaryView => Ok(()),
        DataType::List(field) | DataType::LargeList(field) | DataType::FixedSizeList(field, _) => {
            check_type(column, field.data_type())
        }
        DataType::Struct(fields) => {
            fields.iter().try_for_each(|field| check_type(&format!("{column}.{}", field.name()), field.data_type()))
        }
        DataType::Dictionary(_, values) => check_type(column, values),
        other => Err(format!(
            "the column `{column}` has the type {other}, which is not supported: convert it to text, numbers, lists or \
             structs of them"
        )),
    }
}

/// The cell of a row. `column` is its name in errors.
pub(super) fn value(
    array: &ArrayRef,
    row: usize,
    labels: &ClassLabels,
    column: &str,
    store: &mut StoreBytes<'_>,
) -> Result<Value, CellError> {
    if array.is_null(row) {
        return Ok(Value::Null);
    }
    let mut bytes = |bytes: &[u8]| store(bytes).map_err(CellError::Io);
    Ok(match array.data_type() {
        DataType::Null => Value::Null,
        DataType::Boolean => Value::Bool(array.as_boolean().value(row)),
        DataType::Int8 => label(array.as_primitive::<Int8Type>().value(row).into(), labels, column)?,
        DataType::Int16 => label(array.as_primitive::<Int16Type>().value(row).into(), labels, column)?,
        DataType::Int32 => label(array.as_primitive::<Int32Type>().value(row).into(), labels, column)?,
        DataType::Int64 => label(array.as_primitive::<Int64Type>().value(row), labels, column)?,
        DataType::UInt8 => label(array.as_primitive::<UInt8Type>().value(row).into(), labels, column)?,
        DataType::UInt16 => label(array.as_primitive::<UInt16Type>().value(row).into(), labels, column)?,
        DataType::UInt32 => label(array.as_primitive::<UInt32Type>().value(row).into(), labels, column)?,
        DataType::UInt64 => Value::from(array.as_primitive::<UInt64Type>().value(row)),
        DataType::Float32 => {
            // The shortest decimal number that is this `f32`, not the one of its `f64`.
            let number = array.as_primitive::<Float32Type>().value(row);
            float(number.to_string().parse().unwrap_or_else(|_| f64::from(number)), column)?
        }
        DataType::Float64 => float(array.as_primitive::<Float64Type>().value(row), column)?,
        DataType::Utf8 => Value::from(array.as_string::<i32>().value(row)),
        DataType::LargeUtf8 => Value::from(array.as_string::<i64>().value(row)),
        DataType::Utf8View => Value::from(array.as_string_view().value(row)),
        DataType::Binary => bytes(array.as_binary::<i32>().value(row))?,
        DataType::LargeBinary => bytes(array.as_binary::<i64>().value(row))?,
        DataType::BinaryView => bytes(array.as_binary_view().value(row))?,
        DataType::List(_) => list(&array.as_list::<i32>().value(row), labels, column, store)?,
        DataType::LargeList(_) => list(&array.as_list::<i64>().value(row), labels, column, store)?,
        DataType::FixedSizeList(..) => list(&array.as_fixed_size_list().value(row), labels, column, store)?,
        DataType::Struct(fields) => {
            let mut object = Map::new();
            for (field, array) in fields.iter().zip(array.as_struct().columns()) {
                let name = field.name();
                let cell = value(array, row, &labels.field(name), &format!("{column}.{name}"), store)?;
                object.insert(name.clone(), cell);
            }
            Value::Object(object)
        }
        DataType::Dictionary(key, _) => match **key {
            DataType::Int8 => entry::<Int8Type>(array, row, labels, column, store)?,
            DataType::Int16 => entry::<Int16Type>(array, row, labels, column, store)?,
            DataType::Int32 => entry::<Int32Type>(array, row, labels, column, store)?,
            DataType::Int64 => entry::<Int64Type>(array, row, labels, column, store)?,
            DataType::UInt8 => entry::<UInt8Type>(array, row, labels, column, store)?,
            DataType::UInt16 => entry::<UInt16Type>(array, row, labels, column, store)?,
            DataType::UInt32 => entry::<UInt32Type>(array, row, labels, column, store)?,
            DataType::UInt64 => entry::<UInt64Type>(array, row, labels, column, store)?,
            _ => return Err(CellError::Row(format!("`{column}`: a dictionary with keys of type {key}"))),
        },
        other => return Err(CellError::Row(format!("`{column}`: the type {other} is not supported"))),
    })
}

/// An entry of a dictionary-encoded column.
fn entry<K: ArrowDictionaryKeyType>(
    array: &ArrayRef,
    row: usize,
    labels: &ClassLabels,
    column: &str,
    store: &mut StoreBytes<'_>,
) -> Result<Value, CellError> {
    let dictionary = array.as_dictionary::<K>();
    match dictionary.key(row) {
        Some(key) if key < dictionary.values().len() => value(dictionary.values(), key, labels, column, store),
        _ => Ok(Value::Null),
    }
}

fn list(
    elements: &ArrayRef,
    labels: &ClassLabels,
    column: &str,
    store: &mut StoreBytes<'_>,
) -> Result<Value, CellError> {
    let values = (0..elements.len()).map(|at| value(elements, at, labels.element(), column, store));
    Ok(Value::Array(values.collect::<Result<_, _>>()?))
}

/// A number, or the name of its class. `datasets` writes a missing class as -1.
fn label(number: i64, labels: &ClassLabels, column: &str) -> Result<Value, CellError> {
    let ClassLabels::Names(names) = labels else { return Ok(Value::from(number)) };
    if number == -1 {
        return Ok(Value::Null);
    }
    let name = usize::try_from(number).ok().and_then(|at| names.get(at));
    name.map(|name| Value::from(name.as_str())).ok_or_else(|| {
        CellError::Row(format!("`{column}`: class {number} has no name; the column has {} classes", names.len()))
    })
}

/// A number; `NaN`, which pandas writes for a missing value, is null.
fn float(number: f64, column: &str) -> Result<Value, CellError> {
    match Number::from_f64(number) {
        Some(number) => Ok(Value::Number(number)),
        None if number.is_nan() => Ok(Value::Null),
        None => Err(CellError::Row(format!("`{column}`: the number is infinite"))),
    }
}
