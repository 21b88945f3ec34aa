//! The program that the kernel asks for a connection's listener: for TCP to localhost it names the
//! socket in a map, for all else none, and the kernel looks on.

use std::os::fd::{AsRawFd, BorrowedFd};

use trefoil_bpf::Instruction;

// Registers: the kernel gives the context in R1, functions take their arguments from R1 on, and all
// answer in R0. What is above R5 survives a call.
const ANSWER: u8 = 0;
const FIRST: u8 = 1;
const SECOND: u8 = 2;
const THIRD: u8 = 3;
const CONTEXT: u8 = 6;
const SOCKET: u8 = 7;
const FRAME: u8 = 10;

// Operations.
const LOAD_WORD: u8 = 0x61;
const STORE_WORD: u8 = 0x62;
/// Two instructions long.
const LOAD_MAP: u8 = 0x18;
const MAP: u8 = 1;
const MOVE_REGISTER: u8 = 0xbf;
const MOVE: u8 = 0xb7;
const ADD: u8 = 0x07;
const AND: u8 = 0x57;
const JUMP: u8 = 0x05;
const JUMP_IF_EQUAL: u8 = 0x15;
const JUMP_IF_NOT_EQUAL: u8 = 0x55;
const CALL: u8 = 0x85;
const EXIT: u8 = 0x95;

// Functions.
const MAP_LOOKUP: i32 = 1;
const RELEASE: i32 = 86;
const ASSIGN: i32 = 124;

// Where things are in the context (`struct bpf_sk_lookup`). Addresses are in the network's order.
const FAMILY: i16 = 8;
const PROTOCOL: i16 = 12;
const LOCAL_IPV4: i16 = 40;
const LOCAL_IPV6: i16 = 44;

/// Where the key is, from the end of the program's memory.
const KEY: i16 = -4;
/// The kernel is to look on: for the socket we named, or as if we weren't there.
const PASS: i32 = 1;

const fn instruction(code: u8, to: u8, from: u8, offset: i16, immediate: i32) -> Instruction {
    Instruction::new(code, to, from, offset, immediate)
}

/// Loads a word of the context to be compared.
const fn load(offset: i16) -> Instruction {
    instruction(LOAD_WORD, SECOND, CONTEXT, offset, 0)
}

/// Goes to the end unless what was loaded is this. The way there is filled in when it is known.
const fn unless(value: i32) -> Instruction {
    instruction(JUMP_IF_NOT_EQUAL, SECOND, 0, 0, value)
}

/// Makes the program for a map whose entry 0 is the socket.
pub(super) fn steer(map: BorrowedFd<'_>) -> Vec<Instruction> {
    let last = 1u32.to_be().cast_signed();
    let to_localhost_by_ipv6 = [
        load(LOCAL_IPV6),
        unless(0),
        load(LOCAL_IPV6 + 4),
        unless(0),
        load(LOCAL_IPV6 + 8),
        unless(0),
        load(LOCAL_IPV6 + 12),
        unless(last),
    ];
    let over_ipv6 = to_localhost_by_ipv6.len() as i16;
    let to_localhost_by_ipv4 = [
        load(LOCAL_IPV4),
        // The address's first byte, which is the word's lowest.
        instruction(AND, SECOND, 0, 0, 0xff),
        unless(127),
        instruction(JUMP, 0, 0, over_ipv6, 0),
    ];
    let over_ipv4 = to_localhost_by_ipv4.len() as i16;
    let name_socket = [
        instruction(MOVE_REGISTER, FIRST, CONTEXT, 0, 0),
        instruction(MOVE_REGISTER, SECOND, SOCKET, 0, 0),
        instruction(MOVE, THIRD, 0, 0, 0),
        instruction(CALL, 0, 0, 0, ASSIGN),
        // A reference to the socket came with it.
        instruction(MOVE_REGISTER, FIRST, SOCKET, 0, 0),
        instruction(CALL, 0, 0, 0, RELEASE),
    ];
    let over_naming = name_socket.len() as i16;

    let mut program = vec![
        instruction(MOVE_REGISTER, CONTEXT, FIRST, 0, 0),
        load(PROTOCOL),
        unless(libc::IPPROTO_TCP),
        load(FAMILY),
        instruction(JUMP_IF_EQUAL, SECOND, 0, over_ipv4, libc::AF_INET6),
    ];
    program.extend(to_localhost_by_ipv4);
    program.extend(to_localhost_by_ipv6);
    program.extend([
        // The key is in memory.
        instruction(STORE_WORD, FRAME, 0, KEY, 0),
        instruction(MOVE_REGISTER, SECOND, FRAME, 0, 0),
        instruction(ADD, SECOND, 0, 0, KEY.into()),
        instruction(LOAD_MAP, FIRST, MAP, 0, map.as_raw_fd()),
        instruction(0, 0, 0, 0, 0),
        instruction(CALL, 0, 0, 0, MAP_LOOKUP),
        // The socket is closed already.
        instruction(JUMP_IF_EQUAL, ANSWER, 0, over_naming + 1, 0),
        instruction(MOVE_REGISTER, SOCKET, ANSWER, 0, 0),
    ]);
    program.extend(name_socket);
    let end = program.len();
    for (at, instruction) in program.iter_mut().enumerate() {
        if instruction.code == JUMP_IF_NOT_EQUAL {
            // The whole is some thirty instructions.
            instruction.offset = (end - at - 1) as i16;
        }
    }
    program.extend([
        instruction(MOVE, ANSWER, 0, 0, PASS),
        instruction(EXIT, 0, 0, 0, 0),
    ]);
    program
}
