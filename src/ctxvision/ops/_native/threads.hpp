// Threads of the OpenMP runtime that torch computes with.
//
// The kernels are compiled without OpenMP and linked to no runtime: the loader looks up the functions of torch's own
// and hands them in. So there is never a second pool of threads, whatever compiler built the kernels and whatever
// torch's runtime is called on this system.
#pragma once

#include <cstddef>
#include <cstdint>

// What one thread of a team does; it is the `me`th of `team`.
using Member = void (*)(void *data, int64_t me, int64_t team);

// A runtime that has called an operator of its own, and whose threads are to compute: runs call(data, n) for
// n = 0 … count - 1, on any of them, and returns when all is done; false where it could not.
struct Host {
  bool (*run)(void *self, void (*call)(void *data, size_t n), size_t count, void *data);
  void *self;
};

// Let teams of this thread be the host's, null for torch's.
void use_host(const Host *host);

// Calls member(data, me, team) on a team of at most `threads` threads and waits for all of them.
void run_team(int threads, Member member, void *data);
