#include <blackmamba/train/specialisation.hpp>

#include "support/op_test.hpp"

using namespace blackmamba;

TEST_CASE("specialisation: every byte has the class that is documented") {
  std::string_view const of[]{"abcxyzABCXYZ_", "0123456789", " \t", "\n\r", "()[]{}", "+-*/%=<>!&|^~?", "\"#$',.:;@\\`"};
  Index counted = 0;
  for (std::size_t c = 0; c < std::size(of); ++c)
    for (char const byte : of[c]) {
      INFO(concat("byte ", byte));
      CHECK(static_cast<std::size_t>(byte_class(static_cast<unsigned char>(byte))) == c);
    }
  for (int byte = 0; byte < 256; ++byte) counted += byte_class(static_cast<unsigned char>(byte)) == ByteClass::other;
  CHECK(counted == 128 + 33 - 3);  // the upper half, and the control characters without tab and line ends
}

TEST_CASE("specialisation: counts of independent rows and columns tell nothing, a permutation tells all") {
  CHECK(mutual_information({2, 4, 6, 1, 2, 3}, 3) == 0);
  CHECK(mutual_information({5, 0, 0, 0, 0, 5, 0, 0, 0, 0, 5, 0, 0, 0, 0, 5}, 4) == 2);
  CHECK(mutual_information({0, 0}, 2) == 0);
  CHECK(mutual_information({}, 2) == 0);
  // H(1/4) bits: the row tells the column, which is uneven.
  CHECK(mutual_information({1, 0, 0, 3}, 2) == doctest::Approx(0.25 * 2 + 0.75 * std::log2(4.0 / 3)).epsilon(1e-15));
  CHECK_THROWS_AS(mutual_information({1, 2, 3}, 2), value_error);
}

TEST_CASE("specialisation: a token counts once for each of its experts, in the row of the expert and the column of its class") {
  std::string_view const text = "a1 (";
  Tensor<Token, 1> tokens{Shape<1>{4}};
  for (Index i = 0; i < 4; ++i) tokens(i) = static_cast<unsigned char>(text[static_cast<std::size_t>(i)]);
  Tensor<int, 2> experts{Shape<2>{4, 2}};
  int const choice[]{0, 1, 1, -1, -1, -1, 1, 0};
  std::copy(std::begin(choice), std::end(choice), experts.data());
  Specialisation table{2};
  table.add(experts, tokens);
  std::vector<Index> wanted(2 * byte_classes);
  auto const at = [&](Index expert, ByteClass c) -> Index& {
    return wanted[static_cast<std::size_t>(expert * byte_classes + static_cast<Index>(c))];
  };
  at(0, ByteClass::letter) = 1, at(1, ByteClass::letter) = 1, at(1, ByteClass::digit) = 1;
  at(0, ByteClass::bracket) = 1, at(1, ByteClass::bracket) = 1;
  CHECK(table.counts() == wanted);
  CHECK(table.bits() == mutual_information(wanted, byte_classes));

  tokens(2) = 256;
  CHECK_THROWS_AS(table.add(experts, tokens), value_error);
  tokens(2) = 0;
  experts(3, 0) = 2;
  CHECK_THROWS_AS(table.add(experts, tokens), value_error);
}
