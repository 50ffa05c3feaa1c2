"""covsev: lungs, lobes, COVID-19 lesions and severity scores from chest CT.

Research use only, not a medical device.
"""

__version__ = "0.1.0"
