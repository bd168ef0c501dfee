int x
#if MISTAKE == 1  // refused: expected
int y
#endif
