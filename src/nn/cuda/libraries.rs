//! CUDA's libraries: where they are looked for, opened when first needed, and what is said when they are not there.

use std::ffi::{c_int, c_uint};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use anyhow::{Result, anyhow};

/// The variable with folders to look in before all others, separated by colons.
pub(super) const PATH: &str = "ABLATE_CUDA_PATH";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Library {
    /// Comes with the driver of the GPU.
    Driver,
    /// Comes with CUDA's toolkit, or with PyTorch.
    Blas,
}

struct Opened {
    library: libloading::Library,
    /// As it was asked for: a path, or a name that the dynamic linker knows.
    name: String,
}

/// Whether there is no file of a library at all: one that is there and does not open is another matter.
pub(super) fn absent(library: Library) -> bool {
    opened(library).as_ref().is_err_and(|problem| problem.absent)
}

/// What a library was opened as, or why it was not.
pub(super) fn name(library: Library) -> Result<&'static str> {
    open(library).map(|opened| opened.name.as_str())
}

/// Where a function lies in a library that is never closed.
#[derive(Clone, Copy)]
pub(super) struct Address(pub(super) *const ());

// SAFETY: it is an address of code, which no thread changes.
unsafe impl Send for Address {}
// SAFETY: as above.
unsafe impl Sync for Address {}

/// The address of a function, if its library is there and has it.
pub(super) fn symbol(library: Library, function: &str) -> Option<Address> {
    let opened = open(library).ok()?;
    // SAFETY: nothing is called; what the address is used for, the caller vouches for. The library is never closed.
    let address = unsafe { opened.library.get::<*const ()>(function.as_bytes()) }.ok()?;
    Some(Address(*address)).filter(|address| !address.0.is_null())
}

fn open(library: Library) -> Result<&'static Opened> {
    opened(library).as_ref().map_err(|problem| anyhow!("{}", problem.told))
}

/// Why a library was not opened.
struct Problem {
    told: String,
    absent: bool,
}

fn opened(library: Library) -> &'static Result<Opened, Problem> {
    static DRIVER: OnceLock<Result<Opened, Problem>> = OnceLock::new();
    static BLAS: OnceLock<Result<Opened, Problem>> = OnceLock::new();
    match library {
        Library::Driver => DRIVER.get_or_init(|| first_of(&["libcuda.so.1".to_string()], &driver_folders())),
        Library::Blas => BLAS.get_or_init(|| {
            // One that is newer than the driver could not work with it.
            let names: Vec<String> = (11..=driver_major()).rev().map(|major| format!("libcublas.so.{major}")).collect();
            first_of(&names, &toolkit_folders())
        }),
    }
}

/// Opens the first that is there: in the folders that the user names, then where the dynamic linker looks and in the others.
fn first_of(names: &[String], folders: &[PathBuf]) -> Result<Opened, Problem> {
    let inside = |name: &String, folders: &[PathBuf]| -> Vec<PathBuf> {
        folders.iter().map(|folder| folder.join(name)).filter(|path| path.is_file()).collect()
    };
    let named: Vec<PathBuf> = std::env::var_os(PATH).iter().flat_map(std::env::split_paths).collect();
    let mut files: Vec<PathBuf> = names.iter().flat_map(|name| inside(name, &named)).collect();
    files.extend(names.iter().flat_map(|name| [vec![PathBuf::from(name)], inside(name, folders)].concat()));
    // A file that is there and does not open says more than one that is not there.
    let (mut broken, mut missing) = (None, None);
    for file in files {
        // SAFETY: NVIDIA's libraries may be loaded at any time from any thread; so may, then, whatever the user has put
        // in their place.
        match unsafe { libloading::Library::new(&file) } {
            Ok(library) => return Ok(Opened { library, name: file.display().to_string() }),
            Err(error) => {
                // The cause is what the dynamic linker says.
                let told = std::error::Error::source(&error).unwrap_or(&error).to_string();
                let place = if file.is_file() { &mut broken } else { &mut missing };
                place.get_or_insert(told);
            }
        }
    }
    let absent = broken.is_none();
    let cause = broken.or(missing).map_or(String::new(), |told| format!(": {told}"));
    Err(Problem { told: format!("cannot open {}{cause}", names.join(" or ")), absent })
}

/// The CUDA major version up to which the driver goes.
fn driver_major() -> c_int {
    let Some(Address(address)) = symbol(Library::Driver, "cuDriverGetVersion") else { return 11 };
    let mut version = 0;
    // SAFETY: the function takes a place for one integer and needs no initialization.
    let status = unsafe {
        let function: unsafe extern "C" fn(*mut c_int) -> c_uint = std::mem::transmute(address);
        function(&raw mut version)
    };
    if status == 0 { (version / 1000).max(11) } else { 11 }
}

/// Where containers and Windows put the driver.
fn driver_folders() -> Vec<PathBuf> {
    ["/usr/local/nvidia/lib64", "/usr/lib/wsl/lib"].map(PathBuf::from).to_vec()
}

/// Where toolkits are installed: by the usual variables and places, and by pip in the environment that is active.
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
