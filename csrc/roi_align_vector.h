// Vectors of the instruction set that is being compiled for. Included by roi_align_isa.h alone,
// inside its namespace: everything in it has internal linkage, so that no function compiled for a
// newer processor can be linked into code that runs on an older one. Every function says
// MRCNN_TARGET (or MRCNN_INLINE): GCC does not apply its target pragma to templates.

#define MRCNN_INLINE MRCNN_TARGET __attribute__((always_inline)) inline

constexpr int kVectorBytes = MRCNN_VECTOR_BYTES;

template <typename E, int n>
struct VectorOf {
  typedef E type __attribute__((vector_size(n * sizeof(E))));
};
template <typename E, int n>
using Vector = typename VectorOf<E, n>::type;

template <typename V, typename E>
MRCNN_INLINE V splat(E value) {
  return value - V{};
}

/// a * b + c, fused where the processor can: only coordinates must not be (roi_align_geometry.h).
template <typename V>
MRCNN_INLINE V multiply_add(V a, V b, V c) {
#if MRCNN_VECTOR_BYTES >= 32
  constexpr bool kDouble = sizeof(a[0]) == 8;
#if MRCNN_VECTOR_BYTES == 64
  if constexpr (sizeof(V) == 64 && kDouble)
    return (V)_mm512_fmadd_pd((__m512d)a, (__m512d)b, (__m512d)c);
  if constexpr (sizeof(V) == 64 && !kDouble)
    return (V)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
#endif
  if constexpr (sizeof(V) == 32 && kDouble)
    return (V)_mm256_fmadd_pd((__m256d)a, (__m256d)b, (__m256d)c);
  if constexpr (sizeof(V) == 32 && !kDouble)
    return (V)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
  if constexpr (sizeof(V) == 16 && kDouble)
    return (V)_mm_fmadd_pd((__m128d)a, (__m128d)b, (__m128d)c);
  if constexpr (sizeof(V) == 16 && !kDouble)
    return (V)_mm_fmadd_ps((__m128)a, (__m128)b, (__m128)c);
#endif
  return a * b + c;
}

// ---- Loads and stores of any element type ------------------------------------------------------

template <typename V>
MRCNN_INLINE V load(const void* from) {
  V v;
  __builtin_memcpy(&v, from, sizeof(V));
  return v;
}

template <typename V>
MRCNN_INLINE void store(void* to, V v) {
  __builtin_memcpy(to, &v, sizeof(V));
}

/// Elements of type T as vectors of n accumulators, and back, rounding to the nearest even. Halves
/// also as the low bits of integers.
template <typename T, typename acc_t, int n>
struct Convert {
  using V = Vector<acc_t, n>;
  using Raw = Vector<T, n>;
  static MRCNN_INLINE V widen(Raw raw) {
    if constexpr (std::is_same_v<V, Raw>)
      return raw;
    else
      return __builtin_convertvector(raw, V);
  }
  static MRCNN_INLINE Raw narrow(V v) {
    if constexpr (std::is_same_v<V, Raw>)
      return v;
    else
      return __builtin_convertvector(v, Raw);
  }
};

template <int n>
struct Convert<torch::headeronly::BFloat16, float, n> {
  using V = Vector<float, n>;
  using Raw = Vector<uint16_t, n>;
  using Bits = Vector<uint32_t, n>;
  static MRCNN_INLINE V widen(Raw raw) { return of_bits(__builtin_convertvector(raw, Bits)); }
  static MRCNN_INLINE Raw narrow(V v) { return __builtin_convertvector(to_bits(v), Raw); }
  static MRCNN_INLINE V of_bits(Bits bits) { return (V)(bits << 16); }
  static MRCNN_INLINE Bits to_bits(V v) {
    const Bits bits = (Bits)v;
    const Bits rounded = (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
    return v == v ? rounded : Bits{} + 0x7fc0;
  }
};

template <int n>
struct Convert<torch::headeronly::Half, float, n> {
  using V = Vector<float, n>;
  using Raw = Vector<uint16_t, n>;
  using Bits = Vector<uint32_t, n>;

  static MRCNN_INLINE V of_bits(Bits bits) { return widen(__builtin_convertvector(bits, Raw)); }
  static MRCNN_INLINE Bits to_bits(V v) { return __builtin_convertvector(narrow(v), Bits); }
  static MRCNN_INLINE V widen(Raw raw) {
#if MRCNN_VECTOR_BYTES == 64
    if constexpr (n == 16) return (V)_mm512_cvtph_ps((__m256i)raw);
#endif
#if MRCNN_VECTOR_BYTES >= 32
    if constexpr (n == 8) return (V)_mm256_cvtph_ps((__m128i)raw);
#endif
    const Bits half = __builtin_convertvector(raw, Bits);
    const Bits magnitude = half & 0x7fff, sign = (half & 0x8000) << 16;
    const Bits normal = (magnitude << 13) + (112u << 23);
    const Bits special = magnitude << 13 | 0x7f800000;  // infinity and NaN
    // A subnormal is its bits times 2^-24: as the mantissa of a 0.5 with that last place, less 0.5.
    const Bits small = (Bits)((V)(magnitude + (126u << 23)) - 0.5f);
    const Bits finite = magnitude < 0x400 ? small : normal;
    return (V)(sign | (magnitude >= 0x7c00 ? special : finite));
  }
  static MRCNN_INLINE Raw narrow(V v) {
#if MRCNN_VECTOR_BYTES == 64
    if constexpr (n == 16) return (Raw)_mm512_cvtps_ph((__m512)v, _MM_FROUND_TO_NEAREST_INT);
#endif
#if MRCNN_VECTOR_BYTES >= 32
    if constexpr (n == 8) return (Raw)_mm256_cvtps_ph((__m256)v, _MM_FROUND_TO_NEAREST_INT);
#endif
    const Bits bits = (Bits)v, magnitude = bits & 0x7fffffff, sign = bits >> 16 & 0x8000;
    // Adding 0.5 leaves a multiple of 2^-24, rounded, in the mantissa: the subnormal's bits.
    const Bits small = (Bits)((V)magnitude + 0.5f) - (126u << 23);
    const Bits normal = (magnitude - (112u << 23) + 0xfff + (magnitude >> 13 & 1)) >> 13;
    const Bits finite = magnitude < (113u << 23) ? small : normal;
    const Bits overflow = magnitude > 0x7f800000 ? Bits{} + 0x7e00 : Bits{} + 0x7c00;
    const Bits all = magnitude >= 0x477ff000 ? overflow : finite;  // 65520: where halves round up
    return __builtin_convertvector(all | sign, Raw);
  }
};

// ---- Transposition -----------------------------------------------------------------------------

template <int half, typename V, size_t... i>
MRCNN_INLINE V interleave(V a, V b, std::index_sequence<i...>) {
  constexpr int n = sizeof...(i);
#if __has_builtin(__builtin_shufflevector)
  return __builtin_shufflevector(a, b, (half * (n / 2) + int(i) / 2 + int(i) % 2 * n)...);
#else
  return V{(i % 2 ? b : a)[half * (n / 2) + i / 2]...};
#endif
}

/// The n x n matrix of n vectors: each of the log2(n) rounds is a perfect shuffle of the elements.
template <int n, typename V>
MRCNN_INLINE void transpose(V (&rows)[n]) {
  constexpr auto kIndices = std::make_index_sequence<n>{};
#pragma GCC unroll 4
  for (int round = 1; round < n; round *= 2) {
    V mixed[n];
#pragma GCC unroll 16
    for (int i = 0; i < n / 2; ++i) {
      mixed[2 * i] = interleave<0>(rows[i], rows[i + n / 2], kIndices);
      mixed[2 * i + 1] = interleave<1>(rows[i], rows[i + n / 2], kIndices);
    }
#pragma GCC unroll 16
    for (int i = 0; i < n; ++i) rows[i] = mixed[i];
  }
}

// ---- The channels of one pixel of a slab -------------------------------------------------------

template <typename E, int all>
struct Lanes {
  static constexpr int kFull = kVectorBytes / sizeof(E);
  static constexpr int kEach = all < kFull ? all : kFull, kCount = all / kEach;
  using V = Vector<E, kEach>;
  V v[kCount];

  static MRCNN_INLINE Lanes of(E value) {
    Lanes out;
#pragma GCC unroll 16
    for (int i = 0; i < kCount; ++i) out.v[i] = splat<V>(value);
    return out;
  }
  static MRCNN_INLINE Lanes load(const E* from) {
    Lanes out;
#pragma GCC unroll 16
    for (int i = 0; i < kCount; ++i) out.v[i] = isa_load(from + i * kEach);
    return out;
  }
  MRCNN_INLINE void store(E* to) const {
#pragma GCC unroll 16
    for (int i = 0; i < kCount; ++i) __builtin_memcpy(to + i * kEach, &v[i], sizeof(V));
  }
  static MRCNN_INLINE Lanes scaled(E weight, const E* from) {
    Lanes out;
#pragma GCC unroll 16
    for (int i = 0; i < kCount; ++i) out.v[i] = splat<V>(weight) * isa_load(from + i * kEach);
    return out;
  }
  MRCNN_INLINE void add_scaled(E weight, const E* from) {
#pragma GCC unroll 16
    for (int i = 0; i < kCount; ++i) {
      v[i] = multiply_add(splat<V>(weight), isa_load(from + i * kEach), v[i]);
    }
  }
  MRCNN_INLINE void add_scaled(E weight, const Lanes& from) {
#pragma GCC unroll 16
    for (int i = 0; i < kCount; ++i) v[i] = multiply_add(splat<V>(weight), from.v[i], v[i]);
  }
  MRCNN_INLINE void add(const E* from) {
#pragma GCC unroll 16
    for (int i = 0; i < kCount; ++i) v[i] += isa_load(from + i * kEach);
  }

 private:
  static MRCNN_INLINE V isa_load(const E* from) {
    V out;
    __builtin_memcpy(&out, from, sizeof(V));
    return out;
  }
};
