//! How far blocks are on their way to L1, on a chain that settles there in batches.

use super::{number, unsigned};
use crate::db::{Db, StoreError};
use crate::sql::{columns, statements};

statements! {
    // Blocks with logs of ours, as the watcher takes them in: a block is not missed when its transactions come to their end before
    // anybody asks about it. From as far back as a reorganisation may have put one, or the oldest that was open when this began.
    NOTE_L1_BLOCKS = "insert into chain_l1_block (block_number)
        select distinct block_number from chain_log where block_number > coalesce(
            (select max(block_number) - $1 from chain_l1_block),
            (select min(included_number) - 1 from chain_tx where state in ('included', 'confirmed')),
            (select max(block_number) from chain_log))
        on conflict do nothing";

    // Blocks pass each stage in their order, so the oldest before each stage are those to ask about: those that wait for their
    // execution, which takes hours, hide none that is to be committed next.
    BLOCKS_ON_THEIR_WAY = "(select block_number from chain_l1_block where execute_tx is null and commit_tx is null
            order by block_number limit $1)
        union all (select block_number from chain_l1_block where execute_tx is null and commit_tx is not null and prove_tx is null
            order by block_number limit $1)
        union all (select block_number from chain_l1_block where execute_tx is null and commit_tx is not null and prove_tx is not null
            order by block_number limit $1)";

    SAVE_L1_BLOCKS = "update chain_l1_block set batch_number = new.batch_number, commit_tx = new.commit_tx,
            prove_tx = new.prove_tx, execute_tx = new.execute_tx
        from unnest($1::bigint[], $2::bigint[], $3::bytea[], $4::bytea[], $5::bytea[])
            as new (block_number, batch_number, commit_tx, prove_tx, execute_tx)
        where chain_l1_block.block_number = new.block_number";
}

/// How far a block that carries transactions of ours is on L1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct L1Block {
    /// The block.
    pub block_number: u64,
    /// Its batch.
    pub batch_number: u64,
    /// The L1 transaction that committed it.
    pub commit_tx: Option<[u8; 32]>,
    /// The L1 transaction that proved it.
    pub prove_tx: Option<[u8; 32]>,
    /// The L1 transaction that executed it.
    pub execute_tx: Option<[u8; 32]>,
    /// It is executed, whether or not the chain names the transaction: nobody has to ask about it any more.
    pub is_executed: bool,
}

/// Blocks with logs of ours that are not known to be executed on L1: of those before each stage the oldest, up to `limit`.
pub async fn blocks_on_their_way(
    db: &Db,
    reorg_depth_blocks_max: u64,
    limit: i64,
) -> Result<Vec<u64>, StoreError> {
    db.query(NOTE_L1_BLOCKS, &[&number(reorg_depth_blocks_max)?]).await?;
    let rows = db.query(BLOCKS_ON_THEIR_WAY, &[&limit]).await?;
    rows.iter().map(|row| unsigned(row.try_get("block_number")?)).collect()
}

/// Writes down how far blocks are on L1.
pub async fn save_l1_blocks(db: &Db, blocks: &[L1Block]) -> Result<(), StoreError> {
    if blocks.is_empty() {
        return Ok(());
    }
    let bytes = |hash: &Option<[u8; 32]>| hash.map(|hash| hash.to_vec());
    // An execution by a transaction that the chain does not name is one of no bytes.
    let unnamed = |is_executed: bool| is_executed.then(Vec::new);
    let (numbers, batches, commits, proofs, executions) = columns!(
        blocks,
        |block| i64::try_from(block.block_number).unwrap_or(i64::MAX),
        i64::try_from(block.batch_number).unwrap_or(i64::MAX),
        bytes(&block.commit_tx),
        bytes(&block.prove_tx),
        bytes(&block.execute_tx).or_else(|| unnamed(block.is_executed))
    );
    db.query(SAVE_L1_BLOCKS, &[&numbers, &batches, &commits, &proofs, &executions]).await?;
    Ok(())
}
