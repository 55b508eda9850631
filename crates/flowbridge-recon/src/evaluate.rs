//! The table of goals: what the engine reaches on data whose truth is known.

use crate::public::{self, ReadPublicSetError, Score};
use serde::Serialize;
use std::path::Path;

/// Figures on the public set.
#[derive(Debug, Clone, Serialize)]
pub struct PublicFigures {
    /// Rows of either file.
    pub records: [usize; 2],
    /// With nothing but the two files.
    pub unsupervised: Score,
    /// With the answers for a fifth of the records; counted on the others.
    pub labelled: Score,
}

/// Evaluates on the public set where `folder`, or `splink-transactions` in it, holds its two files.
pub fn public_set(folder: &Path, threads: usize) -> Result<Option<PublicFigures>, ReadPublicSetError> {
    let names = ["transactions_origin.parquet", "transactions_destination.parquet"];
    let Some(folder) = [folder.to_path_buf(), folder.join("splink-transactions")]
        .into_iter()
        .find(|folder| names.iter().all(|name| folder.join(name).is_file()))
    else {
        return Ok(None);
    };
    let origin = public::read(&folder.join(names[0]))?;
    let destination = public::read(&folder.join(names[1]))?;
    Ok(Some(PublicFigures {
        records: [origin.records.len(), destination.records.len()],
        unsupervised: public::unsupervised(&origin, &destination, threads),
        labelled: public::labelled(&origin, &destination, threads),
    }))
}
