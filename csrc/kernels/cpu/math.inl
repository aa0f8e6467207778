// Functions of one element that the compiler can vectorise: no branch, no library call. The float versions err by at
// most a few units in the last place; the double versions are the C library's.
namespace flowar::FLOWAR_ISA {

#define FLOWAR_ELEMENT [[gnu::always_inline]] static inline

template <typename To, typename From>
FLOWAR_ELEMENT To bits_as(From from) {
  static_assert(sizeof(To) == sizeof(From));
  To to;
  std::memcpy(&to, &from, sizeof(to));
  return to;
}

// e^x = 2^n e^r, n = round(x / ln 2), |r| <= ln(2)/2. Below n = -126 it is 0, above n = 127 infinity: the bounds keep n
// among the exponents of floats, which have both of these.
FLOWAR_ELEMENT float exp(float x) {
  constexpr float kLow = -88.0f, kHigh = 89.0f;
  const float above = x < kLow ? kLow : x;
  const float bounded = above > kHigh ? kHigh : above;
  constexpr float kRound = 12582912.0f + 127.0f;  // adding 1.5 * 2^23 leaves round(x) in the low mantissa bits
  const float shifted = bounded * 1.442695041f + kRound;
  const float n = shifted - kRound;
  const float r = (bounded - n * 0.693359375f) + n * 2.12194440e-4f;  // ln 2 in two parts: n * the first is exact
  float q = 1.395060030e-3f;
  q = q * r + 8.368953708e-3f;
  q = q * r + 4.166620417e-2f;
  q = q * r + 1.666651830e-1f;
  q = q * r + 5.000000096e-1f;
  const float e = (q * r) * r + r + 1.0f;
  return e * bits_as<float>(bits_as<uint32_t>(shifted) << 23);  // the low bits are n + 127, the exponent of 2^n
}
FLOWAR_ELEMENT double exp(double x) { return std::exp(x); }

template <typename T>
FLOWAR_ELEMENT T sigmoid(T x) {
  return 1 / (1 + exp(-x));
}

// The standard normal's density phi and distribution Phi.
template <typename T>
struct Normal {
  T density;
  T distribution;
};

// Phi(-|x|) = e^(-x^2/2) R(|x|), R a polynomial in 1 / (1 + 0.3 |x|): relative error 3e-9 before rounding.
FLOWAR_ELEMENT Normal<float> normal(float x) {
  const float magnitude = std::fabs(x);
  const float gauss = exp(-0.5f * x * x);
  const float t = 1.0f / (1.0f + 0.3f * magnitude);
  float tail = -2.001934699e-2f;
  tail = tail * t + 1.088880699e-1f;
  tail = tail * t - 2.190825495e-1f;
  tail = tail * t + 1.782460430e-1f;
  tail = tail * t - 6.664516853e-2f;
  tail = tail * t + 8.815164163e-2f;
  tail = tail * t + 8.175350655e-2f;
  tail = tail * t + 1.093010674e-1f;
  tail = tail * t + 1.197357114e-1f;
  tail = tail * t + 1.196703169e-1f;
  tail = tail * t + 7.067975926e-7f;
  tail *= gauss;
  return {0.3989422804f * gauss, x > 0.0f ? 1.0f - tail : tail};
}
FLOWAR_ELEMENT Normal<double> normal(double x) {
  return {0.39894228040143267794 * std::exp(-0.5 * x * x), 0.5 * std::erfc(-0.70710678118654752440 * x)};
}

// ln x for normal x > 0, to 1e-14: x = 2^e m with m in [sqrt(1/2), sqrt(2)), ln m = 2 artanh((m - 1) / (m + 1)).
FLOWAR_ELEMENT double log(double x) {
  const uint64_t bits = bits_as<uint64_t>(x);
  const uint64_t above = (bits & 0xfffffffffffffu) > 0x6a09e667f3bcdu;  // mantissa above sqrt(2)
  const uint64_t exponent = (bits >> 52) + above;
  const double m = bits_as<double>((bits & 0xfffffffffffffu) | ((0x3ffu - above) << 52));
  const double e = bits_as<double>(exponent | 0x4330000000000000u) - (0x1p52 + 1023);
  const double s = (m - 1) / (m + 1), s2 = s * s;
  double series = 1.0 / 17;
  for (int odd = 15; odd > 0; odd -= 2) series = series * s2 + 1.0 / odd;
  return e * 0.69314718055994530942 + 2 * s * series;
}

// The cosine and sine of 2 pi u, 0 <= u <= 1, to 1e-14: a quarter turn nearest to u, and Taylor series of the rest.
struct Turn {
  double cosine;
  double sine;
};
FLOWAR_ELEMENT Turn turned(double u) {
  constexpr double kRound = 0x1.8p52;  // adding it leaves the quarter in the low mantissa bits
  const double shifted = 4 * u + kRound;
  const uint64_t quarter = bits_as<uint64_t>(shifted);
  const double r = (4 * u - (shifted - kRound)) * 1.57079632679489661923, r2 = r * r;
  double sine = 1, cosine = 1;
  for (int k = 16; k > 0; k -= 2) {
    sine = 1 - sine * (r2 * (1.0 / (k * (k + 1))));
    cosine = 1 - cosine * (r2 * (1.0 / (k * (k - 1))));
  }
  sine *= r;
  const bool swap = quarter & 1;
  const double signed_cosine = swap ? -sine : cosine, signed_sine = swap ? cosine : sine;
  return quarter & 2 ? Turn{-signed_cosine, -signed_sine} : Turn{signed_cosine, signed_sine};
}

// bfloat16 is the upper half of a float; narrowing rounds to nearest even and keeps NaN a NaN.
FLOWAR_ELEMENT float widen_bfloat16(uint16_t x) { return bits_as<float>(static_cast<uint32_t>(x) << 16); }
FLOWAR_ELEMENT uint16_t narrow_bfloat16(float x) {
  const uint32_t bits = bits_as<uint32_t>(x);
  const uint32_t rounded = bits + 0x7fffu + ((bits >> 16) & 1u);
  return static_cast<uint16_t>((x == x ? rounded : bits | 0x400000u) >> 16);
}

// float16: the exponent and mantissa bits, moved into a float's place, are the value times 2^-112.
FLOWAR_ELEMENT float widen_float16(uint16_t x) {
  const uint32_t magnitude = static_cast<uint32_t>(x & 0x7fffu) << 13;
  const uint32_t sign = static_cast<uint32_t>(x & 0x8000u) << 16;
  const float finite = bits_as<float>(magnitude) * 0x1p112f;
  const uint32_t bits = magnitude >= 0x0f800000u ? magnitude | 0x7f800000u : bits_as<uint32_t>(finite);
  return bits_as<float>(bits | sign);
}
FLOWAR_ELEMENT uint16_t narrow_float16(float x) {
  const uint32_t bits = bits_as<uint32_t>(x);
  const uint32_t magnitude = bits & 0x7fffffffu;
  const uint32_t normal = (magnitude - 0x38000000u + 0xfffu + ((magnitude >> 13) & 1u)) >> 13;
  // Below 2^-14 the half is subnormal: adding 0.5 makes the float adder round at the half's last bit, 2^-24.
  const uint32_t subnormal = bits_as<uint32_t>(bits_as<float>(magnitude) + 0.5f) - 0x3f000000u;
  uint32_t half = magnitude < 0x38800000u ? subnormal : normal;
  half = magnitude >= 0x477ff000u ? 0x7c00u : half;  // 65520 and above round to infinity
  half = magnitude > 0x7f800000u ? 0x7e00u : half;   // NaN
  return static_cast<uint16_t>(half | ((bits >> 16) & 0x8000u));
}

// float8_e4m3fn: a sign, 4 bits of exponent of bias 7, 3 of mantissa; no infinity, NaN is 0x7f. Above 464, halfway from
// the largest to what would come next, there is NaN.
FLOWAR_ELEMENT uint8_t narrow_e4m3(float x) {
  const uint32_t bits = bits_as<uint32_t>(x);
  const uint32_t magnitude = bits & 0x7fffffffu;
  const uint32_t normal = (magnitude - 0x3c000000u + 0x7ffffu + ((magnitude >> 20) & 1u)) >> 20;
  // Below 2^-6 it is subnormal: adding 2^14 makes the float adder round at the last bit, 2^-9.
  const uint32_t subnormal = bits_as<uint32_t>(bits_as<float>(magnitude) + 0x1p14f) - 0x46800000u;
  const uint32_t rounded = magnitude < 0x3c800000u ? subnormal : normal;
  return static_cast<uint8_t>((rounded < 0x7fu ? rounded : 0x7fu) | ((bits >> 24) & 0x80u));
}

}  // namespace flowar::FLOWAR_ISA
