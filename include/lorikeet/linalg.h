/* linalg.h: decompositions for initialisations and analysis, through LAPACK: no tape, no gradient.
 *
 * Matrices are views of f32 or f64 with any strides; a result may overlap an input.  Everything is computed in double
 * and rounded once.  Signs that the mathematics leaves open are fixed, so that a result does not depend on the
 * LAPACK underneath.  All functions refuse a non-finite input (LK_ENONFINITE), report when LAPACK does not converge
 * (LK_EARG), and write nothing unless they succeed.  Memory comes from the context, except what LAPACK and its BLAS
 * take inside.  For SVD, QR and the symmetric eigenproblem: Golub and Van Loan, "Matrix Computations". */
#ifndef LORIKEET_LINALG_H
#define LORIKEET_LINALG_H
#include <lorikeet/tensor.h>

#ifdef __cplusplus
extern "C" {
#endif

/* a = u diag(s) vt: a [m, n], u [m, k], s [k] descending, vt [k, n], k = min(m, n).  In every column of u the entry
 * of largest magnitude (the first of them) is positive.  Each of u, s, vt may be NULL. */
LK_API lk_status lk_svd(lk_ctx *ctx, const lk_view *a, const lk_view *u, const lk_view *s, const lk_view *vt);

/* a = q r: a [m, n], q [m, k] with orthonormal columns, r [k, n] upper triangular with a diagonal >= 0,
 * k = min(m, n).  Of a normally distributed a, q is then Haar-distributed (Mezzadri, arXiv math-ph/0609050).
 * Each of q, r may be NULL. */
LK_API lk_status lk_qr(lk_ctx *ctx, const lk_view *a, const lk_view *q, const lk_view *r);

/* a = v diag(w) v^T: a [n, n] symmetric (only its lower triangle is read), w [n] ascending, v [n, n] with orthonormal
 * columns, in each of which the entry of largest magnitude (the first of them) is positive.  v may be NULL. */
LK_API lk_status lk_eigh(lk_ctx *ctx, const lk_view *a, const lk_view *w, const lk_view *v);

/* x with a x = b: a [n, n], b and x both [n] or both [n, k].  An exactly singular a is refused (LK_EARG). */
LK_API lk_status lk_solve(lk_ctx *ctx, const lk_view *a, const lk_view *b, const lk_view *x);

#ifdef __cplusplus
}
#endif
#endif
