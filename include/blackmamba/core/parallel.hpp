#pragma once
/// \file
/// Loops over threads. The work is cut into pieces that do not depend on the number of threads, so neither do the results.

#include <exception>

#include <blackmamba/core/config.hpp>

#if defined(_OPENMP)
#include <omp.h>
#endif

namespace blackmamba {

/// Threads that OpenMP would use now (OMP_NUM_THREADS is honoured); 1 when the program is built without OpenMP.
inline int available_threads() {
#if defined(_OPENMP)
  return omp_get_max_threads();
#else
  return 1;
#endif
}

/// Calls `body(i)` for every i in [0, count), on up to `threads` threads, in no particular order. Iterations must not depend on
/// each other. An exception from any of them is rethrown here once all threads are done.
template <class Body>
void parallel_for(int threads, Index count, Body&& body) {
  if (threads <= 1 || count <= 1) {
    for (Index i = 0; i < count; ++i) body(i);
    return;
  }
#if defined(_OPENMP)
  std::exception_ptr failure;
#pragma omp parallel for schedule(dynamic, 1) num_threads(threads)
  for (Index i = 0; i < count; ++i) {
    try {
      body(i);
    } catch (...) {
#pragma omp critical(blackmamba_parallel_for)
      failure = std::current_exception();
    }
  }
  if (failure) std::rethrow_exception(failure);
#else
  for (Index i = 0; i < count; ++i) body(i);
#endif
}

/// Cuts [0, count) into pieces of `grain` and calls `body(begin, end)` for each, on up to `threads` threads.
template <class Body>
void parallel_ranges(int threads, Index count, Index grain, Body&& body) {
  if (grain < 1) grain = 1;
  Index const pieces = (count + grain - 1) / grain;
  parallel_for(threads, pieces, [&](Index piece) {
    Index const begin = piece * grain;
    body(begin, begin + grain < count ? begin + grain : count);
  });
}

}  // namespace blackmamba
