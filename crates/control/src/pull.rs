//! Pulling a network document in blocks (control rule 11).
//!
//! There is no way to begin without a signed hash and size: a [`Pull`] comes from
//! [`crate::verifier::Verifier::compare`] alone.

use crate::DocumentHash;
use crate::document::{Head, Verified};
use crate::frame::{Block, PullBlock};

/// Length of each block but the last in bytes: with its frame it fits into one message.
pub const BLOCK_LEN: usize = 960;

/// What may be pulled: hash and size, as an authority signed them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pull {
    hash: DocumentHash,
    size: u32,
}

/// Why a block is of no use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PullError {
    /// A block of another document, behind the end, or of the wrong length.
    #[error("not a block of what is pulled")]
    NotWanted,
    /// All blocks are there and make another document: one of them was wrong, and all are dropped.
    #[error("the blocks make another document than was signed")]
    WrongHash,
}

impl Pull {
    pub(crate) fn of(head: &Verified<Head>) -> Self {
        Self { hash: head.network_hash, size: head.network_size }
    }

    /// Hash of the document.
    pub fn hash(&self) -> DocumentHash {
        self.hash
    }

    /// Length of the document in bytes.
    pub fn size(&self) -> u32 {
        self.size
    }
}

/// The blocks of a document that have come.
#[derive(Clone, Debug)]
pub struct Assembly {
    pull: Pull,
    bytes: Vec<u8>,
    present: Vec<bool>,
}

impl Assembly {
    /// None has come yet. Takes the document's size in memory, which is at most
    /// [`crate::document::NETWORK_MAX`].
    pub fn new(pull: Pull) -> Self {
        let size = pull.size as usize;
        Self { pull, bytes: vec![0; size], present: vec![false; size.div_ceil(BLOCK_LEN)] }
    }

    /// What is pulled.
    pub fn pull(&self) -> Pull {
        self.pull
    }

    /// Requests for what has not come, from the first block on.
    pub fn missing(&self) -> impl Iterator<Item = PullBlock> {
        let absent = self.present.iter().zip(0_u32..).filter(|(present, _)| !**present);
        absent.map(|(_, index)| PullBlock { hash: self.pull.hash, index })
    }

    /// Takes a block. Gives the document once it is whole and has the signed hash; it is still to be installed.
    ///
    /// # Errors
    /// Says why the block is of no use. After [`PullError::WrongHash`] all of them are missing again.
    pub fn insert(&mut self, block: &Block) -> Result<Option<Vec<u8>>, PullError> {
        let index = block.index as usize;
        let present = self.present.get_mut(index).ok_or(PullError::NotWanted)?;
        let start = index * BLOCK_LEN;
        let end = (start + BLOCK_LEN).min(self.bytes.len());
        if block.hash != self.pull.hash || block.bytes.len() != end - start {
            return Err(PullError::NotWanted);
        }
        self.bytes[start..end].copy_from_slice(&block.bytes);
        *present = true;
        if self.present.contains(&false) {
            return Ok(None);
        }
        if DocumentHash::of(&self.bytes) != self.pull.hash {
            self.present.fill(false);
            return Err(PullError::WrongHash);
        }
        Ok(Some(self.bytes.clone()))
    }
}

/// The block of a document that a peer asks for; none behind the end.
pub fn block(document: &[u8], request: PullBlock) -> Option<Block> {
    let bytes = document.chunks(BLOCK_LEN).nth(request.index as usize)?.to_vec();
    Some(Block { hash: request.hash, index: request.index, bytes })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::{FRAME_MAX, Frame};

    fn document(size: u32) -> (Vec<u8>, Pull) {
        let bytes: Vec<u8> = (0..size).map(|i| (i % 251) as u8).collect();
        let pull = Pull { hash: DocumentHash::of(&bytes), size };
        (bytes, pull)
    }

    #[test]
    fn blocks_make_the_document_in_any_order_control_rule_11() {
        for size in [1, 959, 960, 961, 5000] {
            let (bytes, pull) = document(size);
            let mut assembly = Assembly::new(pull);
            let requests: Vec<PullBlock> = assembly.missing().collect();
            assert_eq!(requests.len(), bytes.len().div_ceil(BLOCK_LEN));
            let mut done = None;
            for request in requests.iter().rev() {
                let block = block(&bytes, *request).unwrap();
                assert!(Frame::Block(block.clone()).to_bytes().unwrap().len() <= FRAME_MAX);
                done = assembly.insert(&block).unwrap();
            }
            assert_eq!(done, Some(bytes));
            assert_eq!(assembly.missing().count(), 0);
        }
    }

    #[test]
    fn blocks_that_do_not_belong_are_refused_control_rule_11() {
        let (bytes, pull) = document(2000);
        let mut assembly = Assembly::new(pull);
        let good = block(&bytes, PullBlock { hash: pull.hash, index: 0 }).unwrap();
        for bad in [
            Block { hash: DocumentHash::of(b"another"), ..good.clone() },
            Block { index: 3, ..good.clone() },
            Block { index: u32::MAX, ..good.clone() },
            Block { index: 2, ..good.clone() },
            Block { bytes: vec![], ..good.clone() },
        ] {
            assert_eq!(assembly.insert(&bad), Err(PullError::NotWanted));
        }
        assert_eq!(block(&bytes, PullBlock { hash: pull.hash, index: 3 }), None);
        assert_eq!(assembly.missing().count(), 3);
    }

    #[test]
    fn a_wrong_block_is_noticed_by_the_signed_hash_control_rule_11() {
        let (bytes, pull) = document(1000);
        let mut assembly = Assembly::new(pull);
        let [first, second] =
            [0, 1].map(|index| block(&bytes, PullBlock { hash: pull.hash, index }).unwrap());
        let mut forged = first.clone();
        forged.bytes[7] ^= 1;
        assert_eq!(assembly.insert(&forged), Ok(None));
        assert_eq!(assembly.insert(&second), Err(PullError::WrongHash));
        assert_eq!(assembly.insert(&first), Ok(None));
        assert_eq!(assembly.insert(&second), Ok(Some(bytes)));
    }
}
