// Whose threads compute: OpenMP's, or those of the runtime that calls.
#pragma once

#include <cstddef>

namespace ctxvision {

// Runs work(data, n) for n = 0 … count - 1, on any threads, and returns when all is done; false where it could not.
struct Executor {
  bool (*run)(void *self, void (*work)(void *data, size_t n), size_t count, void *data);
  void *self;
};

// Set while a runtime's thread is inside one of its operators, else null.
extern thread_local const Executor *executor __attribute__((visibility("hidden")));

}  // namespace ctxvision
