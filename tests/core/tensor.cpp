#include <blackmamba/core/tensor.hpp>

#include "support/op_test.hpp"

using namespace blackmamba;

TEST_CASE("tensor: starts as zeros, row-major, and default-constructs empty") {
  Tensor<float, 2> t{Shape<2>{3, 4}};
  CHECK(t.size() == 12);
  for (float x : t) CHECK(x == 0);
  t(2, 1) = 5;
  CHECK(t.data()[9] == 5);
  CHECK(t.view()(2, 1) == 5);
  CHECK(Tensor<float, 2>{}.size() == 0);
}

TEST_CASE("tensor: moving hands the memory on, cloning copies it") {
  Tensor<int, 1> a{Shape<1>{3}};
  a(1) = 7;
  int const* const memory = a.data();
  Tensor<int, 1> b = std::move(a);
  CHECK(b.data() == memory);
  auto c = b.clone();
  CHECK(c.data() != memory);
  CHECK(c(1) == 7);
  c(1) = 8;
  CHECK(b(1) == 7);
  static_assert(!std::is_copy_constructible_v<Tensor<int, 1>>);
}

TEST_CASE("tensor: conversion rounds each element once and follows the strides of what it reads") {
  Tensor<double, 2> t{Shape<2>{2, 3}};
  for (Index i = 0; i < 6; ++i) t.data()[i] = 1 + static_cast<double>(i) * 0x1p-9;
  auto const turned = converted<bf16>(View<double const, 2>{t}.transposed(0, 1));
  CHECK(turned.shape() == Shape<2>{3, 2});
  for (Index i = 0; i < 3; ++i)
    for (Index j = 0; j < 2; ++j) CHECK(turned(i, j).bits == bf16{t(j, i)}.bits);
  CHECK(converted<double>(turned)(2, 1) == static_cast<double>(static_cast<float>(bf16{t(1, 2)})));
  CHECK(converted<float>(Tensor<double, 3>{Shape<3>{2, 0, 3}}).size() == 0);
}

TEST_CASE("tensor: a shape that no memory holds is an error with the shape in it") {
  Index volatile negative = -3;  // volatile: the compiler would warn of what the check is there to stop
  CHECK_THROWS_AS((Tensor<float, 1>{Shape<1>{negative}}), shape_error);
  CHECK_THROWS_AS((Tensor<float, 2>{Shape<2>{Index{1} << 40, Index{1} << 40}}), shape_error);
#if !defined(__SANITIZE_ADDRESS__)  // whose allocator ends the program where the system's throws
  CHECK_THROWS_AS((Tensor<double, 1>{Shape<1>{Index{1} << 59}}), memory_error);
#endif
  CHECK_THROWS_WITH_AS((Tensor<double, 1>{Shape<1>{Index{1} << 62}}),
                       "a tensor of shape (4611686018427387904,) has more than 2^63 - 1 bytes", memory_error);
}
