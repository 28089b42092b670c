//! Tests of opening and creating a store.

use crate::{Store, file_name};
use ablate_core::base::files;

#[test]
fn other_format_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    files::write_atomic(&folder.path().join("FORMAT"), b"ablate store 9\n").unwrap();
    let error = Store::open(folder.path()).unwrap_err().to_string();
    let expected = "the store `STORE` has the format `ablate store 9`, this program reads `ablate store 2`\n\
                    help: choose another folder with `--store`";
    assert_eq!(error, expected.replace("STORE", &folder.path().display().to_string()));
}

#[test]
fn folder_with_other_files_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    files::write_atomic(&folder.path().join("README.md"), b"").unwrap();
    files::write_atomic(&folder.path().join(".gitignore"), b"").unwrap();
    files::write_atomic(&folder.path().join("thesis.tex"), b"").unwrap();
    let error = Store::open(folder.path()).unwrap_err().to_string();
    assert!(error.contains("is not a store: it contains `thesis.tex` and no `FORMAT` file"), "{error}");
    files::remove_file(&folder.path().join("thesis.tex")).unwrap();
    Store::open(folder.path()).unwrap();
}

#[test]
fn concurrent_opens_create_one_store() {
    for _ in 0..200 {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("cache");
        std::thread::scope(|scope| {
            let open = || Store::open(&root).map(drop);
            let opened: Vec<_> = (0..8).map(|_| scope.spawn(open)).collect();
            for opened in opened {
                opened.join().unwrap().unwrap();
            }
        });
    }
}

#[test]
fn error_names_the_store() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    files::write_atomic(&file, b"").unwrap();
    let error = Store::open(&file.join("cache")).unwrap_err().to_string();
    assert_eq!(error, format!("cannot read the store `{}`", file.join("cache").display()));
}

#[test]
fn names_are_encoded_as_file_names() {
    assert_eq!(file_name("eval@model=dpo,prompt=cot"), "eval@model=dpo,prompt=cot");
    assert_eq!(file_name("../a b/ü"), "%2e.%2fa%20b%2f%c3%bc");
    assert_eq!(file_name(&"x".repeat(300)).len(), 191);
    assert_ne!(file_name(&"x".repeat(300)), file_name(&"x".repeat(301)));
}
