//! The room of a program: a clean folder with its inputs by name, the environment that it was promised, nothing else.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use super::copies::{self, Wanted};
use ablate_core::base::files;
use ablate_core::stage::Program;

/// What every program finds in its environment: enough to start other programs, and nothing of the user's.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// A program and the place where it runs.
#[derive(Debug)]
pub struct Room {
    pub argv: Vec<String>,
    pub env: Vec<(String, String)>,
    /// Where it starts.
    pub dir: PathBuf,
    /// Where its outputs will be: the room itself.
    pub out: PathBuf,
}

/// The circumstances of one execution that a program may know.
pub(super) struct Circumstances<'a> {
    /// Seed of the instance.
    pub(super) seed: u64,
    /// The devices that it has for itself, such as `cuda:1`; none for a program on the CPU.
    pub(super) devices: &'a [String],
}

/// What a program finds under a name.
pub(super) enum Seen {
    /// A sealed file of the store: a link to it.
    Object(PathBuf),
    /// The files of a folder, or a file of the user's, by their names below that of the input (empty for the file
    /// itself): copies, so that what lies beside them is out of reach and nothing is added to where they are.
    Files { found: Vec<(String, PathBuf)>, outside: bool },
}

/// Makes a room that no other process knows: what an earlier attempt left running may write where it was, and nobody
/// reads it. `note` is told of what the program sees in another way than it expects.
pub(super) fn furnish(
    out: PathBuf,
    program: &Program,
    input: &dyn Fn(&str) -> Result<Seen>,
    around: &Circumstances,
    note: &dyn Fn(String),
) -> Result<Room> {
    files::create_dir(&out)?;
    let mut copies = Vec::new();
    for (role, name) in &program.input_names {
        let place = out.join(name);
        match input(role)? {
            Seen::Object(object) => files::symlink(&object, &place)?,
            Seen::Files { found, outside } => {
                if found.iter().all(|(name, _)| !name.is_empty()) {
                    files::create_dir(&place)?;
                }
                let below = |name: &str| if name.is_empty() { place.clone() } else { place.join(name) };
                copies.extend(found.into_iter().map(|(name, from)| Wanted { from, to: below(&name), outside }));
            }
        }
    }
    copies::lay_out(copies, copies::BOUND, note)?;
    let dir = out.join(&program.working_dir);
    if !program.working_dir.is_empty() {
        files::create_dir(&dir)?;
    }
    Ok(Room { argv: program.argv.clone(), env: environment(program, &out, around)?, dir, out })
}

fn environment(program: &Program, room: &Path, around: &Circumstances) -> Result<Vec<(String, String)>> {
    let room = room.to_str().context("the store's path is not UTF-8")?;
    let seen = std::env::var("CUDA_VISIBLE_DEVICES").ok();
    let devices = around.devices.iter().map(|device| visible(device, seen.as_deref()));
    let devices: Vec<&str> = devices.collect::<Result<_>>()?;
    let mut env: Vec<(String, String)> = [
        ("PATH", PATH),
        ("LANG", "C.UTF-8"),
        ("HOME", room),
        ("TMPDIR", room),
        ("ABLATE_SEED", &around.seed.to_string()),
        ("CUDA_VISIBLE_DEVICES", &devices.join(",")),
    ]
    .map(|(name, value)| (name.to_string(), value.to_string()))
    .to_vec();
    for name in &program.inherited_env {
        match std::env::var(name) {
            Ok(value) => env.push((name.clone(), value)),
            Err(std::env::VarError::NotPresent) => {}
            Err(std::env::VarError::NotUnicode(_)) => bail!("the variable `{name}` of the environment is not UTF-8"),
        }
    }
    env.extend(program.env.iter().cloned());
    Ok(env)
}

/// What a program must be shown to see a device, such as `cuda:1`. Its number counts the devices that this process sees,
/// which may be a choice already; a UUID is one anywhere.
pub(super) fn visible<'a>(device: &'a str, seen: Option<&'a str>) -> Result<&'a str> {
    let id = device.split_once(':').map_or(device, |(_, id)| id);
    let (Some(seen), Ok(number)) = (seen, id.parse::<usize>()) else { return Ok(id) };
    // CUDA reads the list up to the first entry that is no device: `-1` and `NoDevFiles` are ways to hide all.
    let device = |name: &&str| name.parse::<usize>().is_ok() || name.starts_with("GPU-") || name.starts_with("MIG-");
    let mut chosen = seen.split(',').map(str::trim).take_while(device);
    let count = chosen.clone().count();
    chosen.nth(number).with_context(|| {
        format!("GPU {number}: this process sees {count}, counted from 0, as CUDA_VISIBLE_DEVICES is `{seen}`")
    })
}

#[cfg(test)]
mod tests {
    use super::visible;

    #[test]
    fn a_program_sees_the_device_that_its_number_means_to_this_process() {
        let shown = |device, seen| visible(device, seen).unwrap();
        assert_eq!(shown("cuda:1", None), "1");
        assert_eq!(shown("cuda:1", Some("4, 7")), "7");
        assert_eq!(shown("cuda:0", Some("GPU-5ebe9fb8,GPU-0c2b")), "GPU-5ebe9fb8");
        assert_eq!(shown("cuda:GPU-0c2b", Some("4,7")), "GPU-0c2b");
    }

    #[test]
    fn a_number_beyond_those_that_are_seen_is_no_device() {
        let error = |device, seen| visible(device, Some(seen)).unwrap_err().to_string();
        let expected = "GPU 2: this process sees 2, counted from 0, as CUDA_VISIBLE_DEVICES is `4,7`";
        assert_eq!(error("cuda:2", "4,7"), expected);
        for none in ["", "-1", "NoDevFiles", "-1,0"] {
            assert!(error("cuda:0", none).starts_with("GPU 0: this process sees 0"), "{none}");
        }
        assert!(error("cuda:1", "4,,7").starts_with("GPU 1: this process sees 1"));
    }
}
