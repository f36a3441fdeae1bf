#include "textflag.h"

// AES-256-GCM four blocks a register, sixteen a turn. One pass: while the AES
// units work on the next sixteen counters, the carry-less multipliers hash the
// ciphertext that is there already.
//
// The field of GHASH is bit-reversed (SP 800-38D § 6.3). Blocks are reversed
// bytewise on the way in, and the powers of H are kept times x, so that the
// product of two reversed polynomials comes out in place.
//
//	AX           *keys: round key r at 64*r, power H^(17-i) at 960+16*i
//	BX, DI, CX   source, destination, bytes left
//	Z0–Z3        counters, then keystream, then text
//	Z4–Z7        blocks to hash, reversed
//	X8           hash so far
//	Z9–Z11       low, middle, high part of the sum of products
//	Z12, Z13     scratch
//	Z14          the next four counters, reversed: the counter is the low dword
//	Z15          what one step adds to them
//	Z16          how VPSHUFB reverses a block
//	Z17          x^127+x^126+x^121, for the reduction
//	Z18          round key
//	Z19–Z22      H^16 … H^1
//	X23          the tag's mask: the first counter, encrypted
//	Z24, Z25     scratch

DATA reverse<>+0(SB)/8, $0x08090a0b0c0d0e0f
DATA reverse<>+8(SB)/8, $0x0001020304050607
GLOBL reverse<>(SB), RODATA|NOPTR, $16

DATA field<>+0(SB)/8, $0xc200000000000000
DATA field<>+8(SB)/8, $0xc200000000000000
GLOBL field<>(SB), RODATA|NOPTR, $16

// x^128 modulo the field's polynomial, reversed.
DATA carry<>+0(SB)/8, $0x0000000000000001
DATA carry<>+8(SB)/8, $0xc200000000000000
GLOBL carry<>(SB), RODATA|NOPTR, $16

DATA first<>+0(SB)/8, $1
DATA first<>+8(SB)/8, $0
DATA first<>+16(SB)/8, $2
DATA first<>+24(SB)/8, $0
DATA first<>+32(SB)/8, $3
DATA first<>+40(SB)/8, $0
DATA first<>+48(SB)/8, $4
DATA first<>+56(SB)/8, $0
GLOBL first<>(SB), RODATA|NOPTR, $64

DATA four<>+0(SB)/8, $4
DATA four<>+8(SB)/8, $0
GLOBL four<>(SB), RODATA|NOPTR, $16

#define POWERS 960

// COUNTERS puts the next sixteen counter blocks into Z0–Z3, with round key 0.
#define COUNTERS \
	VMOVDQU64 (AX), Z18; \
	VPSHUFB   Z16, Z14, Z0; \
	VPADDD    Z15, Z14, Z14; \
	VPSHUFB   Z16, Z14, Z1; \
	VPADDD    Z15, Z14, Z14; \
	VPSHUFB   Z16, Z14, Z2; \
	VPADDD    Z15, Z14, Z14; \
	VPSHUFB   Z16, Z14, Z3; \
	VPADDD    Z15, Z14, Z14; \
	VPXORQ    Z18, Z0, Z0; \
	VPXORQ    Z18, Z1, Z1; \
	VPXORQ    Z18, Z2, Z2; \
	VPXORQ    Z18, Z3, Z3

#define ROUND(r) \
	VMOVDQU64 (64*r)(AX), Z18; \
	VAESENC   Z18, Z0, Z0; \
	VAESENC   Z18, Z1, Z1; \
	VAESENC   Z18, Z2, Z2; \
	VAESENC   Z18, Z3, Z3

#define LAST \
	VMOVDQU64   (64*14)(AX), Z18; \
	VAESENCLAST Z18, Z0, Z0; \
	VAESENCLAST Z18, Z1, Z1; \
	VAESENCLAST Z18, Z2, Z2; \
	VAESENCLAST Z18, Z3, Z3

// MASKROUND takes the tag's mask along.
#define MASKROUND(r) \
	ROUND(r); \
	VAESENC X18, X23, X23

// MULTIPLY begins the sum of products with d times p; MULTIPLYADD goes on.
#define MULTIPLY(d, p, lo, mid, hi, t) \
	VPCLMULQDQ $0x00, p, d, lo; \
	VPCLMULQDQ $0x01, p, d, mid; \
	VPCLMULQDQ $0x10, p, d, t; \
	VPCLMULQDQ $0x11, p, d, hi; \
	VPXORQ     t, mid, mid

#define MULTIPLYADD(d, p) \
	VPCLMULQDQ $0x00, p, d, Z12; \
	VPCLMULQDQ $0x01, p, d, Z13; \
	VPCLMULQDQ $0x10, p, d, Z24; \
	VPCLMULQDQ $0x11, p, d, Z25; \
	VPXORQ     Z12, Z9, Z9; \
	VPTERNLOGQ $0x96, Z13, Z24, Z10; \
	VPXORQ     Z25, Z11, Z11

// REDUCE folds low and middle part into the high one, which is the remainder.
#define REDUCE(lo, mid, hi, t, f) \
	VPCLMULQDQ $0x00, f, lo, t; \
	VPSHUFD    $0x4e, lo, lo; \
	VPTERNLOGQ $0x96, t, lo, mid; \
	VPCLMULQDQ $0x00, f, mid, t; \
	VPSHUFD    $0x4e, mid, mid; \
	VPTERNLOGQ $0x96, t, mid, hi

// SUM adds up the four lanes of Z11 in X8.
#define SUM \
	VEXTRACTI64X4 $1, Z11, Y12; \
	VPXORQ        Y12, Y11, Y11; \
	VEXTRACTI32X4 $1, Y11, X12; \
	VPXORQ        X12, X11, X8

// BEGIN loads what stays, makes the counters, and hashes the additional data.
#define BEGIN \
	MOVQ            k+0(FP), AX; \
	MOVQ            nonce+8(FP), R8; \
	MOVQ            ad+16(FP), R9; \
	MOVQ            dst+24(FP), DI; \
	MOVQ            src+32(FP), BX; \
	MOVQ            n+40(FP), CX; \
	VBROADCASTI32X4 reverse<>(SB), Z16; \
	VBROADCASTI32X4 field<>(SB), Z17; \
	VBROADCASTI32X4 four<>(SB), Z15; \
	VMOVDQU64       (POWERS+16*1)(AX), Z19; \
	VMOVDQU64       (POWERS+16*5)(AX), Z20; \
	VMOVDQU64       (POWERS+16*9)(AX), Z21; \
	VMOVDQU64       (POWERS+16*13)(AX), Z22; \
	VMOVQ           (R8), X14; \
	VPINSRD         $2, 8(R8), X14, X14; \
	MOVL            $0x01000000, R10; \
	VPINSRD         $3, R10, X14, X14; \
	VPXORQ          (AX), X14, X23; \
	VPSHUFB         X16, X14, X14; \
	VSHUFI32X4      $0, Z14, Z14, Z14; \
	VPADDD          first<>(SB), Z14, Z14; \
	VMOVDQU         (R9), X8; \
	VPSHUFB         X16, X8, X8; \
	VMOVDQU64       (POWERS+16*16)(AX), X12; \
	MULTIPLY(X8, X12, X9, X10, X11, X13); \
	REDUCE(X9, X10, X11, X13, X17); \
	VMOVDQA64       X11, X8

// REVERSE takes four registers of ciphertext to the hash.
#define REVERSE \
	VPSHUFB Z16, Z4, Z4; \
	VPSHUFB Z16, Z5, Z5; \
	VPSHUFB Z16, Z6, Z6; \
	VPSHUFB Z16, Z7, Z7

// BOTH encrypts sixteen counters and hashes sixteen blocks.
#define BOTH \
	VPXORQ Z8, Z4, Z4; \
	COUNTERS; \
	ROUND(1); \
	MULTIPLY(Z4, Z19, Z9, Z10, Z11, Z12); \
	ROUND(2); \
	ROUND(3); \
	MULTIPLYADD(Z5, Z20); \
	ROUND(4); \
	ROUND(5); \
	MULTIPLYADD(Z6, Z21); \
	ROUND(6); \
	ROUND(7); \
	MULTIPLYADD(Z7, Z22); \
	ROUND(8); \
	ROUND(9); \
	REDUCE(Z9, Z10, Z11, Z12, Z17); \
	ROUND(10); \
	ROUND(11); \
	SUM; \
	ROUND(12); \
	ROUND(13); \
	LAST

// HASH is BOTH without the encryption.
#define HASH \
	VPXORQ Z8, Z4, Z4; \
	MULTIPLY(Z4, Z19, Z9, Z10, Z11, Z12); \
	MULTIPLYADD(Z5, Z20); \
	MULTIPLYADD(Z6, Z21); \
	MULTIPLYADD(Z7, Z22); \
	REDUCE(Z9, Z10, Z11, Z12, Z17); \
	SUM

// MASK makes k the mask of the bytes that the next register holds of the CX
// left.
#define MASK(k) \
	BZHIQ   CX, R11, R12; \
	KMOVQ   R12, k; \
	XORL    R13, R13; \
	SUBQ    $64, CX; \
	CMOVQLT R13, CX

// MASKS makes K1–K4 those of a tail of CX bytes, less than 256.
#define MASKS \
	MOVQ $-1, R11; \
	MASK(K1); \
	MASK(K2); \
	MASK(K3); \
	MASK(K4)

// KEYSTREAM makes the last sixteen blocks of it, and the tag's mask.
#define KEYSTREAM \
	COUNTERS; \
	MASKROUND(1); \
	MASKROUND(2); \
	MASKROUND(3); \
	MASKROUND(4); \
	MASKROUND(5); \
	MASKROUND(6); \
	MASKROUND(7); \
	MASKROUND(8); \
	MASKROUND(9); \
	MASKROUND(10); \
	MASKROUND(11); \
	MASKROUND(12); \
	MASKROUND(13); \
	LAST; \
	VAESENCLAST X18, X23, X23

// LOAD loads the tail, zeroes behind it.
#define LOAD(z0, z1, z2, z3) \
	VMOVDQU8.Z (BX), K1, z0; \
	VMOVDQU8.Z 64(BX), K2, z1; \
	VMOVDQU8.Z 128(BX), K3, z2; \
	VMOVDQU8.Z 192(BX), K4, z3

#define STORE \
	VMOVDQU8 Z0, K1, (DI); \
	VMOVDQU8 Z1, K2, 64(DI); \
	VMOVDQU8 Z2, K3, 128(DI); \
	VMOVDQU8 Z3, K4, 192(DI)

#define XOR \
	VPXORQ Z4, Z0, Z0; \
	VPXORQ Z5, Z1, Z1; \
	VPXORQ Z6, Z2, Z2; \
	VPXORQ Z7, Z3, Z3

// FINISH hashes the tail's R14 blocks and the lengths in one sum: with m blocks
// left the first is multiplied by H^(m+1), the lengths by H. Then the tag is
// the hash and its mask.
#define FINISH(empty, last) \
	MOVQ        n+40(FP), R10; \
	SHLQ        $3, R10; \
	VMOVQ       R10, X24; \
	MOVQ        $128, R10; \
	VPINSRQ     $1, R10, X24, X24; \
	VMOVDQU64   (POWERS+16*16)(AX), X25; \
	TESTQ       R14, R14; \
	JZ          empty; \
	VPXORQ      Z8, Z4, Z4; \
	MOVQ        $16, R10; \
	SUBQ        R14, R10; \
	SHLQ        $4, R10; \
	LEAQ        POWERS(AX)(R10*1), R10; \
	MULTIPLY(X24, X25, X9, X10, X11, X12); \
	VMOVDQU64   (R10), Z19; \
	VMOVDQU64   64(R10), Z20; \
	VMOVDQU64   128(R10), Z21; \
	VMOVDQU64   192(R10), Z22; \
	MULTIPLYADD(Z4, Z19); \
	MULTIPLYADD(Z5, Z20); \
	MULTIPLYADD(Z6, Z21); \
	MULTIPLYADD(Z7, Z22); \
	REDUCE(Z9, Z10, Z11, Z12, Z17); \
	SUM; \
	JMP         last; \
empty: \
	VPXORQ      X8, X24, X24; \
	MULTIPLY(X24, X25, X9, X10, X11, X12); \
	REDUCE(X9, X10, X11, X12, X17); \
	VMOVDQA64   X11, X8; \
last: \
	VPSHUFB     X16, X8, X8; \
	VPXORQ      X23, X8, X8; \
	MOVQ        tag+48(FP), R10; \
	VMOVDQU     X8, (R10); \
	VZEROUPPER

// BLOCKS makes R14 the number of blocks of a tail of CX bytes.
#define BLOCKS \
	LEAQ 15(CX), R14; \
	SHRQ $4, R14

// TAIL encrypts or decrypts the last CX bytes, less than 256: what was read stays
// in Z4–Z7, what was written in Z0–Z3.
#define TAIL \
	BLOCKS; \
	MASKS; \
	LOAD(Z4, Z5, Z6, Z7); \
	KEYSTREAM; \
	XOR; \
	STORE

// func seal(k *keys, nonce *[12]byte, ad *[16]byte, dst, src *byte, n int, tag *[16]byte)
TEXT ·seal(SB), NOSPLIT, $0-56
	BEGIN
	CMPQ CX, $256
	JLT  tail
	COUNTERS
	ROUND(1)
	ROUND(2)
	ROUND(3)
	ROUND(4)
	ROUND(5)
	ROUND(6)
	ROUND(7)
	ROUND(8)
	ROUND(9)
	ROUND(10)
	ROUND(11)
	ROUND(12)
	ROUND(13)
	LAST

store:
	VPXORQ    (BX), Z0, Z4
	VPXORQ    64(BX), Z1, Z5
	VPXORQ    128(BX), Z2, Z6
	VPXORQ    192(BX), Z3, Z7
	VMOVDQU64 Z4, (DI)
	VMOVDQU64 Z5, 64(DI)
	VMOVDQU64 Z6, 128(DI)
	VMOVDQU64 Z7, 192(DI)
	ADDQ      $256, BX
	ADDQ      $256, DI
	SUBQ      $256, CX
	REVERSE
	CMPQ      CX, $256
	JLT       hash
	BOTH
	JMP       store

hash:
	HASH

tail:
	TAIL
	VMOVDQU8.Z Z0, K1, Z4
	VMOVDQU8.Z Z1, K2, Z5
	VMOVDQU8.Z Z2, K3, Z6
	VMOVDQU8.Z Z3, K4, Z7
	REVERSE
	FINISH(empty, last)
	RET

// func open(k *keys, nonce *[12]byte, ad *[16]byte, dst, src *byte, n int, tag *[16]byte)
TEXT ·open(SB), NOSPLIT, $0-56
	BEGIN

more:
	CMPQ      CX, $256
	JLT       tail
	VMOVDQU64 (BX), Z4
	VMOVDQU64 64(BX), Z5
	VMOVDQU64 128(BX), Z6
	VMOVDQU64 192(BX), Z7
	REVERSE
	BOTH
	VPXORQ    (BX), Z0, Z0
	VPXORQ    64(BX), Z1, Z1
	VPXORQ    128(BX), Z2, Z2
	VPXORQ    192(BX), Z3, Z3
	VMOVDQU64 Z0, (DI)
	VMOVDQU64 Z1, 64(DI)
	VMOVDQU64 Z2, 128(DI)
	VMOVDQU64 Z3, 192(DI)
	ADDQ      $256, BX
	ADDQ      $256, DI
	SUBQ      $256, CX
	JMP       more

tail:
	TAIL
	REVERSE
	FINISH(empty, last)
	RET

// SHIFTS makes x the sum of x, x<<32, x<<64 and x<<96.
#define SHIFTS(x) \
	VPSLLDQ $4, x, X4; \
	VPXOR   X4, x, x; \
	VPSLLDQ $8, x, X4; \
	VPXOR   X4, x, x

#define EVEN(r, c) \
	VAESKEYGENASSIST $c, X1, X3; \
	VPSHUFD          $0xff, X3, X3; \
	SHIFTS(X0); \
	VPXOR            X3, X0, X0; \
	VSHUFI32X4       $0, Z0, Z0, Z2; \
	VMOVDQU64        Z2, (64*r)(AX)

#define ODD(r) \
	VAESKEYGENASSIST $0, X0, X3; \
	VPSHUFD          $0xaa, X3, X3; \
	SHIFTS(X1); \
	VPXOR            X3, X1, X1; \
	VSHUFI32X4       $0, Z1, Z1, Z2; \
	VMOVDQU64        Z2, (64*r)(AX)

// func expand(k *keys, key *[32]byte)
TEXT ·expand(SB), NOSPLIT, $0-16
	MOVQ       k+0(FP), AX
	MOVQ       key+8(FP), BX
	VMOVDQU    (BX), X0
	VMOVDQU    16(BX), X1
	VSHUFI32X4 $0, Z0, Z0, Z2
	VMOVDQU64  Z2, (AX)
	VSHUFI32X4 $0, Z1, Z1, Z2
	VMOVDQU64  Z2, 64(AX)
	EVEN(2, 0x01)
	ODD(3)
	EVEN(4, 0x02)
	ODD(5)
	EVEN(6, 0x04)
	ODD(7)
	EVEN(8, 0x08)
	ODD(9)
	EVEN(10, 0x10)
	ODD(11)
	EVEN(12, 0x20)
	ODD(13)
	EVEN(14, 0x40)

	// H is the encryption of a block of zeroes.
	VMOVDQU (AX), X0
	MOVQ    $64, CX

rounds:
	VAESENC (AX)(CX*1), X0, X0
	ADDQ    $64, CX
	CMPQ    CX, $(64*14)
	JNE     rounds
	VAESENCLAST (AX)(CX*1), X0, X0

	// Reversed, times x.
	VPSHUFB reverse<>(SB), X0, X0
	VPSRAD  $31, X0, X1
	VPSHUFD $0xff, X1, X1
	VPAND   carry<>(SB), X1, X1
	VPADDQ  X0, X0, X2
	VPSRLQ  $63, X0, X0
	VPSLLDQ $8, X0, X0
	VPXOR   X0, X2, X0
	VPXOR   X1, X0, X0

	VMOVDQU64 field<>(SB), X17
	VMOVDQU X0, (POWERS+16*16)(AX)
	VMOVDQU X0, X8
	MOVQ    $(16*16), CX

powers:
	MULTIPLY(X8, X0, X9, X10, X11, X13)
	REDUCE(X9, X10, X11, X13, X17)
	VMOVDQA64 X11, X8
	SUBQ    $16, CX
	VMOVDQU64 X8, POWERS(AX)(CX*1)
	JNZ     powers
	VZEROUPPER
	RET
