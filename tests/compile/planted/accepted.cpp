// Mistake 2 is none.
#if MISTAKE == 1  // refused: expected
int x
#endif
#if MISTAKE == 2  // refused: expected
int y;
#endif
