#include "threads.hpp"

#include "vector.hpp"

namespace {

// The C interfaces that GCC and Clang compile `#pragma omp parallel` to; a compiler's own, so they do not change.
struct Location {  // ident_t of LLVM's runtime
  int32_t reserved = 0, flags = 2, more[2] = {};
  const char *source = ";unknown;unknown;0;0;;";
};
using Query = int (*)();
using GnuParallel = void (*)(void (*)(void *), void *, unsigned threads, unsigned flags);
using LlvmThread = int32_t (*)(Location *);
using LlvmThreads = void (*)(Location *, int32_t thread, int32_t threads);
using LlvmMember = void (*)(int32_t *, int32_t *, void *);
using LlvmFork = void (*)(Location *, int32_t count, LlvmMember, ...);

struct Runtime {
  Query index, size;
  GnuParallel parallel;
  LlvmThread thread;
  LlvmThreads set_threads;
  LlvmFork fork;

  bool is_gnu() const { return index && size && parallel; }
  bool is_llvm() const { return index && size && thread && set_threads && fork; }
};

Runtime runtime = {};
Location location;

struct Work {
  Member member;
  void *data;
};

void work_on(void *data) {
  const auto *work = static_cast<const Work *>(data);
  work->member(work->data, runtime.index(), runtime.size());
}

void llvm_work_on(int32_t *, int32_t *, void *data) { work_on(data); }

thread_local const Host *current_host = nullptr;

void run_on_host(const Host &host, int threads, Member member, void *data) {
  struct Team {
    Member member;
    void *data;
    int64_t size;
  } team{member, data, threads};
  const auto call = [](void *shared, size_t n) {
    const auto &all = *static_cast<const Team *>(shared);
    all.member(all.data, static_cast<int64_t>(n), all.size);
  };
  // members write the same numbers however often they are called
  if (!host.run(host.self, call, static_cast<size_t>(threads), &team)) member(data, 0, 1);
}

}  // namespace

void use_host(const Host *host) { current_host = host; }

void run_team(int threads, Member member, void *data) {
  Work work{member, data};
  if (threads > 1 && current_host != nullptr) {
    run_on_host(*current_host, threads, member, data);
  } else if (threads > 1 && runtime.is_gnu()) {
    runtime.parallel(work_on, &work, static_cast<unsigned>(threads), 0);
  } else if (threads > 1 && runtime.is_llvm()) {
    runtime.set_threads(&location, runtime.thread(&location), threads);
    runtime.fork(&location, 1, llvm_work_on, static_cast<void *>(&work));
  } else {
    member(data, 0, 1);
  }
}

CTX_EXPORT int ctxvision_abi() { return kAbi; }

// Take the runtime's functions, in the order of OPENMP in __init__.py; null for those that it lacks.
// Returns 1 if they are enough to compute on several threads, else 0.
CTX_EXPORT int ctxvision_use_openmp(void *const *functions) {
  static_assert(sizeof(Runtime) == 6 * sizeof(void *), "the functions are copied as they come");
  std::memcpy(&runtime, functions, sizeof(Runtime));
  return runtime.is_gnu() || runtime.is_llvm();
}
