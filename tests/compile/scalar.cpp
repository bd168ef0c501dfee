// bf16 and half widen without being asked, and round only where somebody says so.

#include <blackmamba/core/scalar.hpp>

using namespace blackmamba;

bf16 product(bf16 a, bf16 b) {
#if MISTAKE == 1  // refused: from 'float' to 'blackmamba::bf16' || no viable conversion from returned value of type 'float'
  return a * b;
#else
  return bf16(a * b);
#endif
}

void accumulate(half& sum, half x) {
#if MISTAKE == 2  // refused: no match for 'operator+=' || no viable overloaded '+='
  sum += x;
#else
  sum = half(sum + x);
#endif
}
