/* Reset vector of QEMU's "sim" machine for the lx106 core. Interrupts stay off; an exception ends the emulator with 3. */
.section .reset, "ax"
.global _start
_start:
  j 1f
  .align 4
2: .word qfl_start
3: .word __stack_top
4: .word 0x40000000
1:
  l32r a0, 4b
  wsr  a0, vecbase
  l32r a1, 3b
  l32r a0, 2b
  jx   a0

.section .vectors, "ax"
  .org 0x30            /* kernel exception */
  j fault
  .org 0x50            /* user exception */
  j fault
  .org 0x70            /* double exception */
  j fault
  .org 0x80
fault:
  movi a2, 1           /* simcall exit(3) */
  movi a3, 3
  simcall
1: j 1b
