// The library must load with glibc 2.28, like torch. Where it is built with glibc 2.32 or later,
// the shared_ptr of libstdc++ reads this variable of glibc to skip atomics in processes with a
// single thread. This definition, which is hidden, replaces it: 0 means that there may be several
// threads.
#if defined(__linux__)
extern "C" __attribute__((visibility("hidden"))) char __libc_single_threaded;
char __libc_single_threaded = 0;
#endif
