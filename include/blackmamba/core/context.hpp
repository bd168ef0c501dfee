#pragma once
/// \file
/// Where and how an operation runs. An operation finds its implementation by overload on the context's type:
///
///   Reference        plain loops, any scalar, one thread: what everything else is checked against
///   Cpu : Reference  SIMD, Eigen and threads where an operation has them; the reference where it has not
///   Cuda             an NVIDIA GPU; declared here so that overloads can name it, defined by the CUDA headers
///
/// Derive from one of them and overload a single operation to replace that one and keep the rest.

#include <concepts>
#include <memory>
#include <type_traits>

#include <blackmamba/core/arena.hpp>
#include <blackmamba/core/parallel.hpp>

namespace blackmamba {

/// The reference context. Copies share their scratch memory, so one context serves one calling thread at a time.
class Reference {
 public:
  Reference() : scratch_{std::make_shared<Arena>()} {}

  /// Temporary memory of operations and layers: take it inside a scope.
  Arena& scratch() const { return *scratch_; }

  /// Where the scratch memory comes from, and weights and states that run on this context.
  MemoryResource memory() const { return detail::host_memory; }

  /// Waits until everything queued has run: at once, for nothing is queued here.
  void synchronize() const {}

  /// Threads that an operation may use.
  int threads() const { return 1; }

  static constexpr char const* name = "reference";

 private:
  std::shared_ptr<Arena> scratch_;
};

/// The fast CPU context.
class Cpu : public Reference {
 public:
  /// As many threads as there are processors for this process, or as OMP_NUM_THREADS says.
  Cpu() : Cpu{available_threads()} {}

  /// Throws `value_error` if `threads` < 1.
  explicit Cpu(int threads) : threads_{threads} { check_value(threads >= 1, "Cpu", "threads is ", threads, ", not at least 1"); }

  int threads() const { return threads_; }

  static constexpr char const* name = "cpu";

 private:
  int threads_;
};

class Cuda;

/// A context: cheap to copy, knows its scratch memory.
template <class C>
concept Context = std::copyable<C> && requires(C const& c) {
  { c.scratch() } -> std::same_as<Arena&>;
  { c.memory() } -> std::same_as<MemoryResource>;
  c.synchronize();
  { c.threads() } -> std::convertible_to<int>;
};

static_assert(Context<Reference> && Context<Cpu>);

}  // namespace blackmamba
