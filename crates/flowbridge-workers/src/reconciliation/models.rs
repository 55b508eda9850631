//! Models on disk: a folder with model files, named by the SHA-256 of their bytes. Which of them judges, two people decide at the API.
//!
//! The model in force has to lie in the folder, and its bytes have to be those that people decided about. Where that is not so, what
//! judges is the last good one: the model that it was put above, or the one before that, and at the end the shipped one. A model that
//! people went back from is never taken for that. The run says which model judged, and raises the alarm if it was not the one in force.

use flowbridge_recon::{Model, ReadModelError, report};
use flowbridge_store::promotion::PromotedModel;
use std::path::{Path, PathBuf};
use std::{fs, io};

/// Why a model cannot judge.
#[derive(Debug, thiserror::Error)]
pub enum LoadModelError {
    /// No file, or not readable.
    #[error("cannot read {0}")]
    Read(PathBuf, #[source] io::Error),
    /// Nobody has said where models live.
    #[error("there is no folder of models: [reconciliation] models")]
    NoFolder,
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
}

/// The model that judges.
#[derive(Debug)]
pub struct Judging {
    /// The model.
    pub model: Model,
    /// SHA-256 of its file.
    pub sha256: String,
    /// Models that come before it by what people decided, the one in force first, and why each cannot judge.
    pub passed_over: Vec<(String, LoadModelError)>,
}

/// The model in force; where it cannot be read, the last good one. `promoted` is what two people have put in force, newest first.
pub fn judging(folder: Option<&Path>, promoted: &[PromotedModel]) -> Result<Judging, LoadModelError> {
    let mut passed_over = Vec::new();
    for sha256 in in_order(promoted) {
        match load(folder, sha256) {
            Ok(model) => return Ok(Judging { model, sha256: sha256.to_owned(), passed_over }),
            Err(why) => passed_over.push((sha256.to_owned(), why)),
        }
    }
    Ok(Judging { model: Model::shipped()?, sha256: Model::shipped_sha256(), passed_over })
}

/// Models in the order in which they may judge: the one in force, then those that it was put above, the nearest first.
fn in_order(promoted: &[PromotedModel]) -> Vec<&str> {
    let mut order: Vec<&str> = promoted.last().map(|first| first.champion.as_str()).into_iter().collect();
    for PromotedModel { model, .. } in promoted.iter().rev() {
        // Who goes back to a model goes back from all that were put above it.
        if let Some(place) = order.iter().position(|known| *known == model.as_str()) {
            order.truncate(place);
        }
        order.push(model);
    }
    order.reverse();
    order
}

/// A model, by its id.
pub fn load(folder: Option<&Path>, id: &str) -> Result<Model, LoadModelError> {
    if id.len() != 64 || !id.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Err(LoadModelError::NoId(id.to_owned()));
    }
    if id == Model::shipped_sha256() {
        return Ok(Model::shipped()?);
    }
    let path = file_of(folder.ok_or(LoadModelError::NoFolder)?, id);
    let bytes = fs::read(&path).map_err(|error| LoadModelError::Read(path.clone(), error))?;
    if report::sha256(&bytes) != id {
        return Err(LoadModelError::Changed(path));
    }
    Model::read(&bytes).map_err(|error| LoadModelError::Model(path, error))
}

/// Where a model lies.
pub fn file_of(folder: &Path, id: &str) -> PathBuf {
    folder.join(format!("{id}.json"))
}

/// Where what was measured of it lies.
pub fn comparison_of(folder: &Path, id: &str) -> PathBuf {
    folder.join(format!("{id}.comparison.json"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use flowbridge_domain::time::Timestamp;

    fn promoted(model: &str, champion: &str) -> PromotedModel {
        let since = Timestamp::EPOCH;
        PromotedModel { model: model.to_owned(), champion: champion.to_owned(), since }
    }

    #[test]
    fn what_people_went_back_from_never_judges_again_by_itself() {
        let (a, b, c) = (promoted("a", "shipped"), promoted("b", "a"), promoted("c", "b"));
        let newest_first = |mut promoted: Vec<PromotedModel>| {
            promoted.reverse();
            promoted
        };
        assert!(in_order(&[]).is_empty());
        let forward = newest_first(vec![a.clone(), b.clone(), c.clone()]);
        assert_eq!(in_order(&forward), ["c", "b", "a", "shipped"]);
        let back = newest_first(vec![a.clone(), b.clone(), c, promoted("a", "c")]);
        assert_eq!(in_order(&back), ["a", "shipped"]);
        let further = newest_first(vec![a, b, promoted("shipped", "b"), promoted("d", "shipped")]);
        assert_eq!(in_order(&further), ["d", "shipped"]);
    }

    #[test]
    fn a_model_judges_only_as_people_decided_about_it() {
        let folder = tempfile::tempdir().unwrap();
        let mut file = Model::shipped().unwrap().to_file().unwrap();
        file.extend_from_slice(b"\n \n");
        let (id, shipped) = (report::sha256(&file), Model::shipped_sha256());
        let promoted = [promoted(&id, &shipped)];
        let judged = |folder: Option<&Path>| {
            let Judging { sha256, passed_over, .. } = judging(folder, &promoted).unwrap();
            (sha256, passed_over.into_iter().map(|(_, why)| why).next())
        };
        assert!(matches!(judged(None), (sha256, Some(LoadModelError::NoFolder)) if sha256 == shipped));
        let missing = judged(Some(folder.path()));
        assert!(matches!(missing, (sha256, Some(LoadModelError::Read(..))) if sha256 == shipped));
        fs::write(file_of(folder.path(), &id), &file).unwrap();
        assert!(matches!(judged(Some(folder.path())), (sha256, None) if sha256 == id));
        fs::write(file_of(folder.path(), &id), b"{}").unwrap();
        let changed = judged(Some(folder.path()));
        assert!(matches!(changed, (sha256, Some(LoadModelError::Changed(_))) if sha256 == shipped));
    }
}
