#pragma once
/// \file
/// Eigen's core, wherever the system keeps it: with Eigen's own include path, or below the system's as Debian installs it.
/// For the fast CPU paths only; the reference and the CUDA paths do without.

// Under nvcc Eigen would make itself host-and-device and do without SIMD: in a program of .cpp and .cu files, the same templates
// with two bodies, of which the linker keeps one. Here it serves the host only.
#if defined(__CUDACC__) && !defined(EIGEN_NO_CUDA)
#define EIGEN_NO_CUDA
#endif

#if __has_include(<Eigen/Core>)
#include <Eigen/Core>
#elif __has_include(<eigen3/Eigen/Core>)
#include <eigen3/Eigen/Core>
#else
#error "blackmamba: Eigen 3.4 is needed for the CPU path (Debian: apt-get install libeigen3-dev), or name its folder with -I"
#endif
