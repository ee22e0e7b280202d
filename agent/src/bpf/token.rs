//! The token by which the hooks know agents of the instance.

use aws_lc_rs::rand;
use aya::maps::{Array, MapData};
use ebpf_abi::Token;

use super::{
    BpfError, Pins,
    maps::{full, open},
};

/// The instance's, which its first agent has drawn.
pub(super) fn of_instance(pins: &Pins) -> Result<Token, BpfError> {
    const MAP: &str = "TOKEN";
    let mut map: Array<MapData, Token> = open(pins, MAP)?;
    let mut token = map.get(&0, 0).map_err(full(MAP))?;
    if token.is_unset() {
        token = draw()?;
        map.set(0, token, 0).map_err(full(MAP))?;
    }
    Ok(token)
}

fn draw() -> Result<Token, BpfError> {
    let mut bytes = [[0; 8]; 2];
    rand::fill(bytes.as_flattened_mut()).map_err(|_| BpfError::NoRandomness)?;
    Ok(Token(bytes.map(u64::from_ne_bytes)))
}
