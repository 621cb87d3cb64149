/* tiny.c - the cheapest program there is: it ends well at once, without a C library or a dynamic linker.
 *
 *   cc -O2 -nostdlib -static -o tiny tiny.c
 *
 * Starting it costs a sixth of /bin/true, so what is around it shows.
 */
#if defined(__x86_64__)
#define EXIT_WELL "xor %edi, %edi\n mov $60, %eax\n syscall\n"
#elif defined(__aarch64__)
#define EXIT_WELL "mov x0, #0\n mov x8, #93\n svc #0\n"
#else
#error "how a program ends is known here for x86-64 and arm64 only"
#endif

__asm__(".globl _start\n_start:\n" EXIT_WELL);
