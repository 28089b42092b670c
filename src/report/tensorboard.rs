//! Training curves as event files of TensorBoard: one run per training stage.
//!
//! An event file is a list of records in the format TFRecord: the length, the bytes of a message, and a checksum of each. A
//! message is an `Event` of `tensorflow/core/util/event.proto` in the encoding of protobuf; the few fields that are used are
//! written by hand.

use std::collections::BTreeMap;

use crc::{CRC_32_ISCSI, Crc};

use super::input::Curve;
use ablate_data::records::CurveStep;

/// The name of an event file in the folder of its run. TensorBoard looks for `tfevents`.
pub const FILE: &str = "events.out.tfevents.ablate";

/// The event file of a curve.
///
/// A curve has no times of its steps: they are spread evenly from the start to the end of the stage. So equal results have equal
/// bytes.
pub(super) fn events(curve: &Curve) -> Vec<u8> {
    let Curve { points, point, time, .. } = curve;
    let (mut file, last) = (Vec::new(), points.len().max(1) as f64);
    let mut add = |event: Message| push_record(&event.0, &mut file);
    add(Message::default().double(1, time.started).bytes(3, b"brain.Event:2"));
    add(Message::default().double(1, time.started).message(5, &Message::default().message(1, &hyperparameters(point))));
    for (index, step) in points.iter().enumerate() {
        let wall_time = time.started + time.seconds * (index + 1) as f64 / last;
        let mut summary = Message::default();
        for (tag, value) in scalars(step) {
            let value = Message::default().bytes(1, tag.as_bytes()).float(2, value as f32);
            summary = summary.message(1, &value);
        }
        add(Message::default().double(1, wall_time).varint(2, step.step).message(5, &summary));
    }
    file
}

/// The numbers of a step with their tags.
fn scalars(step: &CurveStep) -> impl Iterator<Item = (&'static str, f64)> {
    let CurveStep { step: _, loss, learning_rate, gradient_norm, tokens, reward_accuracy, reward_margin } = *step;
    let all = [
        ("train/loss", Some(loss)),
        ("train/learning_rate", learning_rate),
        ("train/gradient_norm", gradient_norm),
        ("train/tokens", tokens.map(|tokens| tokens as f64)),
        ("train/reward_accuracy", reward_accuracy),
        ("train/reward_margin", reward_margin),
    ];
    all.into_iter().filter_map(|(tag, value)| Some((tag, value?)))
}

/// The `Summary.Value` that gives TensorBoard's table of hyperparameters the axes of the run: numbers if they are numbers.
fn hyperparameters(point: &BTreeMap<String, String>) -> Message {
    let mut session = Message::default();
    for (axis, label) in point {
        let number = label.parse::<f64>().ok().filter(|number| number.is_finite());
        let value = match number {
            Some(number) => Message::default().double(2, number),
            None => Message::default().bytes(3, label.as_bytes()),
        };
        // An entry of a map.
        session = session.message(1, &Message::default().bytes(1, axis.as_bytes()).message(2, &value));
    }
    let content = Message::default().message(3, &session);
    let plugin = Message::default().bytes(1, b"hparams").bytes(2, &content.0);
    let metadata = Message::default().message(1, &plugin);
    // TensorBoard needs a value; it is one zero of the type float.
    let shape = Message::default().message(2, &Message::default().varint(1, 1));
    let tensor = Message::default().varint(1, 1).message(2, &shape).bytes(5, &0f32.to_le_bytes());
    Message::default().bytes(1, b"_hparams_/session_start_info").message(8, &tensor).message(9, &metadata)
}

/// A message of protobuf. Each method appends a field.
#[derive(Default)]
struct Message(Vec<u8>);

impl Message {
    fn raw_varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
    }

    fn varint(mut self, field: u64, value: u64) -> Message {
        self.raw_varint(field << 3);
        self.raw_varint(value);
        self
    }

    fn double(mut self, field: u64, value: f64) -> Message {
        self.raw_varint(field << 3 | 1);
        self.0.extend(value.to_le_bytes());
        self
    }

    fn float(mut self, field: u64, value: f32) -> Message {
        self.raw_varint(field << 3 | 5);
        self.0.extend(value.to_le_bytes());
        self
    }

    fn bytes(mut self, field: u64, bytes: &[u8]) -> Message {
        self.raw_varint(field << 3 | 2);
        self.raw_varint(bytes.len() as u64);
        self.0.extend(bytes);
        self
    }

    fn message(self, field: u64, message: &Message) -> Message {
        self.bytes(field, &message.0)
    }
}

/// Appends a record of TFRecord.
fn push_record(data: &[u8], file: &mut Vec<u8>) {
    let length = (data.len() as u64).to_le_bytes();
    file.extend(length);
    file.extend(masked_crc(&length).to_le_bytes());
    file.extend(data);
    file.extend(masked_crc(data).to_le_bytes());
}

/// The CRC-32C of the bytes, rotated and shifted as TFRecord does it.
fn masked_crc(bytes: &[u8]) -> u32 {
    static CRC: Crc<u32> = Crc::<u32>::new(&CRC_32_ISCSI);
    CRC.checksum(bytes).rotate_right(15).wrapping_add(0xa282_ead8)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::input::TimeSpan;

    /// The records of a file. Panics on a wrong length or checksum.
    fn records(mut file: &[u8]) -> Vec<&[u8]> {
        let mut found = Vec::new();
        while !file.is_empty() {
            let length = u64::from_le_bytes(file[..8].try_into().unwrap()) as usize;
            assert_eq!(file[8..12], masked_crc(&file[..8]).to_le_bytes());
            let (data, rest) = file[12..].split_at(length);
            assert_eq!(rest[..4], masked_crc(data).to_le_bytes());
            found.push(data);
            file = &rest[4..];
        }
        found
    }

    #[test]
    fn a_curve_has_one_event_per_step() {
        let step = |step: u64| CurveStep {
            step,
            loss: 1.5,
            learning_rate: None,
            gradient_norm: None,
            tokens: None,
            reward_accuracy: Some(0.25),
            reward_margin: None,
        };
        let curve = Curve {
            instance: "dpo".to_string(),
            stage: "dpo".to_string(),
            point: BTreeMap::from([("lr".to_string(), "1e-5".to_string())]),
            points: vec![step(1), step(300)],
            time: TimeSpan { started: 100.0, seconds: 10.0 },
        };
        let file = events(&curve);
        let events = records(&file);
        assert_eq!(events.len(), 4);
        let last = events[3];
        assert_eq!(last[..9], [&[1 << 3 | 1][..], &110f64.to_le_bytes()].concat());
        assert_eq!(last[9..12], [2 << 3, 0b1010_1100, 0b10], "step 300");
        let loss = [&[10][..], b"train/loss", &[2 << 3 | 5], &1.5f32.to_le_bytes()].concat();
        assert!(last.windows(loss.len()).any(|window| window == loss));
        assert_eq!(file, super::events(&curve), "equal curves give equal bytes");
    }

    #[test]
    fn checksums_are_those_of_tfrecord() {
        // The length 24 of the first record that TensorFlow writes for `brain.Event:2`.
        assert_eq!(masked_crc(&24u64.to_le_bytes()).to_le_bytes(), [0xa3, 0x7f, 0x4b, 0x22]);
    }
}
