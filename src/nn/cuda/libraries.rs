//! Finds CUDA's libraries and opens them at their first use.

use std::ffi::{c_int, c_uint};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use anyhow::{Result, anyhow};

/// The variable with folders that are searched first, separated by colons.
pub(super) const PATH: &str = "ABLATE_CUDA_PATH";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Library {
    /// Comes with the driver of the GPU.
    Driver,
    /// Comes with CUDA's toolkit, or with PyTorch.
    Blas,
}

struct Opened {
    library: libloading::Library,
    /// A path, or a name that the dynamic linker finds.
    name: String,
}

/// Whether a library has no file. A file that exists but does not open does not count as absent.
pub(super) fn absent(library: Library) -> bool {
    opened(library).as_ref().is_err_and(|problem| problem.absent)
}

/// The name with which a library was opened, or the error.
pub(super) fn name(library: Library) -> Result<&'static str> {
    open(library).map(|opened| opened.name.as_str())
}

/// The address of a function in a library that is never closed.
#[derive(Clone, Copy)]
pub(crate) struct Address(pub(crate) *const ());

// SAFETY: it is the address of code, which does not change.
unsafe impl Send for Address {}
// SAFETY: as above.
unsafe impl Sync for Address {}

/// The address of a function, if its library opens and has it.
pub(crate) fn symbol(library: Library, function: &str) -> Option<Address> {
    let opened = open(library).ok()?;
    // SAFETY: nothing is called; the caller is responsible for the use of the address. The library is never closed.
    let address = unsafe { opened.library.get::<*const ()>(function.as_bytes()) }.ok()?;
    Some(Address(*address)).filter(|address| !address.0.is_null())
}

fn open(library: Library) -> Result<&'static Opened> {
    opened(library).as_ref().map_err(|problem| anyhow!("{}", problem.message))
}

/// Why a library was not opened.
struct Problem {
    message: String,
    absent: bool,
}

fn opened(library: Library) -> &'static Result<Opened, Problem> {
    static DRIVER: OnceLock<Result<Opened, Problem>> = OnceLock::new();
    static BLAS: OnceLock<Result<Opened, Problem>> = OnceLock::new();
    match library {
        Library::Driver => DRIVER.get_or_init(|| first_of(&["libcuda.so.1".to_string()], &driver_folders())),
        Library::Blas => BLAS.get_or_init(|| {
            // A library newer than the driver does not work with it.
            let names: Vec<String> = (11..=driver_major()).rev().map(|major| format!("libcublas.so.{major}")).collect();
            first_of(&names, &toolkit_folders())
        }),
    }
}

/// Opens the first file found: in the folders of [`PATH`], then by the dynamic linker, then in the other folders.
fn first_of(names: &[String], folders: &[PathBuf]) -> Result<Opened, Problem> {
    let inside = |name: &String, folders: &[PathBuf]| -> Vec<PathBuf> {
        folders.iter().map(|folder| folder.join(name)).filter(|path| path.is_file()).collect()
    };
    let named: Vec<PathBuf> = std::env::var_os(PATH).iter().flat_map(std::env::split_paths).collect();
    let mut files: Vec<PathBuf> = names.iter().flat_map(|name| inside(name, &named)).collect();
    files.extend(names.iter().flat_map(|name| [vec![PathBuf::from(name)], inside(name, folders)].concat()));
    // The error about a file that exists but does not open is more useful than that about a missing file.
    let (mut broken, mut missing) = (None, None);
    for file in files {
        // SAFETY: NVIDIA's libraries may be loaded at any time from any thread. A library that the user puts in their place
        // must allow the same.
        match unsafe { libloading::Library::new(&file) } {
            Ok(library) => return Ok(Opened { library, name: file.display().to_string() }),
            Err(error) => {
                // The source is the message of the dynamic linker.
                let message = std::error::Error::source(&error).unwrap_or(&error).to_string();
                let first = if file.is_file() { &mut broken } else { &mut missing };
                first.get_or_insert(message);
            }
        }
    }
    let absent = broken.is_none();
    let cause = broken.or(missing).map_or(String::new(), |message| format!(": {message}"));
    Err(Problem { message: format!("cannot open {}{cause}", names.join(" or ")), absent })
}

/// The latest CUDA major version that the driver supports.
fn driver_major() -> c_int {
    let Some(Address(address)) = symbol(Library::Driver, "cuDriverGetVersion") else { return 11 };
    let mut version = 0;
    // SAFETY: the function takes a pointer to one integer and needs no initialization.
    let status = unsafe {
        let function: unsafe extern "C" fn(*mut c_int) -> c_uint = std::mem::transmute(address);
        function(&raw mut version)
    };
    if status == 0 { (version / 1000).max(11) } else { 11 }
}

/// The folders of the driver in containers and on Windows (WSL).
fn driver_folders() -> Vec<PathBuf> {
    ["/usr/local/nvidia/lib64", "/usr/lib/wsl/lib"].map(PathBuf::from).to_vec()
}

/// The folders of CUDA toolkits: the usual variables and paths, and pip packages of the active environment.
fn toolkit_folders() -> Vec<PathBuf> {
    let variables = ["CUDA_PATH", "CUDA_HOME", "CUDA_ROOT", "CONDA_PREFIX"];
    let mut roots: Vec<PathBuf> = variables.iter().filter_map(std::env::var_os).map(PathBuf::from).collect();
    roots.extend(["/usr/local/cuda", "/opt/cuda"].map(PathBuf::from));
    let mut versions: Vec<PathBuf> = entries(Path::new("/usr/local"));
    versions.retain(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("cuda-")));
    versions.sort();
    roots.extend(versions.into_iter().rev());
    let inside = ["lib64", "lib", "targets/x86_64-linux/lib", "targets/sbsa-linux/lib"];
    let mut folders: Vec<PathBuf> =
        roots.iter().flat_map(|root| inside.iter().map(move |folder| root.join(folder))).collect();
    if let Some(environment) = std::env::var_os("VIRTUAL_ENV") {
        for python in entries(&Path::new(&environment).join("lib")) {
            let packages = python.join("site-packages/nvidia");
            folders.extend(["cu13/lib", "cublas/lib"].map(|folder| packages.join(folder)));
        }
    }
    folders
}

fn entries(folder: &Path) -> Vec<PathBuf> {
    std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path()).collect()
}
