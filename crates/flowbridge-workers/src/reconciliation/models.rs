//! Models on disk: a folder with model files, named by the SHA-256 of their bytes, and `log.jsonl`, which is only added to.
//!
//! The log says which model is in force, and which two people put it there. A model whose file does not have the hash in its
//! name is refused: then a run fails, and is not done with another model than people chose.

use flowbridge_recon::registry::{ReadLogError, Registry};
use flowbridge_recon::{Model, ReadModelError, report};
use std::path::{Path, PathBuf};
use std::{fs, io};

/// Why there is no model.
#[derive(Debug, thiserror::Error)]
pub enum LoadModelError {
    /// No file, or not readable.
    #[error("cannot read {0}")]
    Read(PathBuf, #[source] io::Error),
    /// Its bytes are others.
    #[error("{0} was changed after it was made; take it from its backup")]
    Changed(PathBuf),
    /// It is no id.
    #[error("{0:?} is no id of a model: 64 hexadecimal digits")]
    NoId(String),
    /// No model.
    #[error("{0}")]
    Model(PathBuf, #[source] ReadModelError),
    /// The shipped one.
    #[error("the shipped model")]
    Shipped(#[from] ReadModelError),
    /// The log.
    #[error("{0}")]
    Log(PathBuf, #[source] ReadLogError),
}

/// The model in force in a folder and its id; the shipped one where none was ever promoted, or there is no folder.
pub fn in_force(folder: Option<&Path>) -> Result<(Model, String), LoadModelError> {
    let registry = folder.map(registry).transpose()?;
    match (folder, registry.as_ref().and_then(Registry::in_force)) {
        (Some(folder), Some(id)) => Ok((load(folder, id)?, id.to_owned())),
        _ => Ok((Model::shipped()?, Model::shipped_sha256())),
    }
}

/// A model of a folder, by its id.
pub fn load(folder: &Path, id: &str) -> Result<Model, LoadModelError> {
    if id.len() != 64 || !id.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Err(LoadModelError::NoId(id.to_owned()));
    }
    if id == Model::shipped_sha256() {
        return Ok(Model::shipped()?);
    }
    let path = file_of(folder, id);
    let bytes = fs::read(&path).map_err(|error| LoadModelError::Read(path.clone(), error))?;
    if report::sha256(&bytes) != id {
        return Err(LoadModelError::Changed(path));
    }
    Model::read(&bytes).map_err(|error| LoadModelError::Model(path, error))
}

/// The log of a folder; an empty one where nobody has changed anything yet.
pub fn registry(folder: &Path) -> Result<Registry, LoadModelError> {
    let path = folder.join("log.jsonl");
    match fs::read(&path) {
        Ok(bytes) => Registry::read(&bytes).map_err(|error| LoadModelError::Log(path, error)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Registry::default()),
        Err(error) => Err(LoadModelError::Read(path, error)),
    }
}

/// Where a model lies.
pub fn file_of(folder: &Path, id: &str) -> PathBuf {
    folder.join(format!("{id}.json"))
}
