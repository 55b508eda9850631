//! Where things lie in an archive.
//!
//! ```text
//! audit/checkpoint                        the newest checkpoint
//! audit/tile/0/x001/x234/067[.p/8]        hashes of the tree, 256 a tile; level 0 are the leaves' (C2SP tlog-tiles)
//! audit/tile/entries/x001/x234/067[.p/8]  the leaves themselves, 256 a bundle
//! reports/2026-11-29/alpha/rcn_…/report.html
//! ```
//!
//! Everything but the checkpoint is written once and never again, so an archive may forbid that anything is changed or deleted.

use std::path::PathBuf;
use tlog_tiles::Tile;

/// Levels of the tree in a tile.
pub const TILE_HEIGHT: u8 = 8;
/// Hashes of a whole tile, leaves of a whole bundle.
pub const TILE_WIDTH: u64 = 1 << TILE_HEIGHT;

/// The newest checkpoint.
pub fn checkpoint() -> PathBuf {
    PathBuf::from("audit/checkpoint")
}

/// The tiles that a tree of `size` leaves has and one of `earlier` leaves had not.
pub fn new_tiles(earlier: u64, size: u64) -> Vec<Tile> {
    Tile::new_tiles(TILE_HEIGHT, earlier, size)
}

/// The tile of a level that begins `number` whole tiles after the first. None for what is no tile: none or too many hashes.
pub fn tile_of(level: u8, number: u64, width: u64) -> Option<Tile> {
    let width = u32::try_from(width).ok().filter(|width| (1..=1 << TILE_HEIGHT).contains(width))?;
    (level < 64).then(|| Tile::new(TILE_HEIGHT, level, number, width, false))
}

/// Where a tile lies.
pub fn tile(tile: &Tile) -> PathBuf {
    below_audit(tile)
}

/// Where the leaves of a tile of level 0 lie.
pub fn bundle(tile: &Tile) -> PathBuf {
    let mut entries = *tile;
    entries.set_is_data();
    below_audit(&entries)
}

/// C2SP leaves out the height, which is always 8, and calls entries what sumdb calls data.
fn below_audit(tile: &Tile) -> PathBuf {
    let path = tile.path();
    let below = path.strip_prefix("tile/8/").unwrap_or(&path);
    let below =
        below.strip_prefix("data/").map_or_else(|| below.to_owned(), |rest| format!("entries/{rest}"));
    PathBuf::from("audit/tile").join(below)
}

/// Where a report of a reconciliation lies.
pub fn report(day: &str, scope: &str, reconciliation: &str, format: &str) -> PathBuf {
    let name = match format {
        "matches_csv" => "matches.csv".to_owned(),
        "breaks_csv" => "breaks.csv".to_owned(),
        "camt" => "entries.camt.xml".to_owned(),
        other => format!("report.{}", plain(other)),
    };
    PathBuf::from("reports").join(plain(day)).join(plain(scope)).join(plain(reconciliation)).join(name)
}

/// What every file system and every bucket takes as a name: `chain:EUR` is `chain-EUR`.
fn plain(text: &str) -> String {
    let is_plain = |letter: char| letter.is_ascii_alphanumeric() || matches!(letter, '-' | '_');
    text.chars().map(|letter| if is_plain(letter) { letter } else { '-' }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tiles_lie_where_every_client_of_a_transparency_log_looks_for_them() {
        let shown =
            |tile: &Tile| (super::tile(tile).display().to_string(), bundle(tile).display().to_string());
        let whole = tile_of(0, 1_234_067, 256).unwrap();
        assert_eq!(
            shown(&whole),
            ("audit/tile/0/x001/x234/067".to_owned(), "audit/tile/entries/x001/x234/067".to_owned())
        );
        let partial = tile_of(0, 1_234_067, 8).unwrap();
        assert_eq!(
            shown(&partial),
            ("audit/tile/0/x001/x234/067.p/8".to_owned(), "audit/tile/entries/x001/x234/067.p/8".to_owned())
        );
        assert_eq!((tile_of(0, 0, 0), tile_of(0, 0, 257)), (None, None));
        let paths: Vec<_> = new_tiles(255, 513).iter().map(|tile| shown(tile).0).collect();
        assert_eq!(
            paths,
            ["audit/tile/0/000", "audit/tile/0/001", "audit/tile/0/002.p/1", "audit/tile/1/000.p/2"]
        );
    }

    #[test]
    fn a_report_lies_with_its_day_and_scope_and_never_outside() {
        let of = |scope, format| report("2026-11-29", scope, "rcn_1", format).display().to_string();
        assert_eq!(of("chain:EUR", "html"), "reports/2026-11-29/chain-EUR/rcn_1/report.html");
        assert_eq!(of("alpha", "matches_csv"), "reports/2026-11-29/alpha/rcn_1/matches.csv");
        assert_eq!(of("../..", "pdf"), "reports/2026-11-29/-----/rcn_1/report.pdf");
    }
}
